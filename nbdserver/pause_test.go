package nbdserver

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// withDisk is a server whose volume does what it is told to.
func withDisk(t *testing.T) (*Server, *disk) {
	t.Helper()
	s := newMemory(t, 1<<20)
	d := newDisk(s, s.Exports[0].Backend)
	s.Exports[0].Backend = d
	return s, d
}

// content of the volume, from its beginning.
func (d *disk) content(t *testing.T, n int) string {
	t.Helper()
	p := make([]byte, n)
	if err := d.Backend.ReadAt(t.Context(), p, 0); err != nil {
		t.Fatal(err)
	}
	return string(p)
}

func joined(t *testing.T, s *Server) *rawClient {
	t.Helper()
	c := connect(t, s)
	c.begin(false)
	return c
}

// pausing begins to pause. Its result comes on the channel.
func pausing(ctx context.Context, s *Server, atMost time.Duration) <-chan error {
	result := make(chan error, 1)
	go func() { result <- s.Pause(ctx, atMost) }()
	synctest.Wait()
	return result
}

// pending checks that there is no result yet.
func pending(t *testing.T, result <-chan error) {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-result:
		t.Fatalf("the pause is complete too early, or has failed: %v", err)
	default:
	}
}

func mustPause(t *testing.T, s *Server, atMost time.Duration) {
	t.Helper()
	if err := s.Pause(t.Context(), atMost); err != nil {
		t.Fatal(err)
	}
}

func failed(t *testing.T, err error, why string) {
	t.Helper()
	if err == nil || !strings.HasPrefix(err.Error(), "not paused: ") || !strings.Contains(err.Error(), why) {
		t.Errorf("the pause ends with %v, not %q", err, why)
	}
}

// A pause waits for the calls into every volume.
func TestPauseOfAllVolumes(t *testing.T) {
	for _, name := range []string{"disk", "second"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := twoVolumes(t)
				gate := make(chan struct{})
				for _, e := range s.Exports {
					e.Backend = &gated{Backend: e.Backend, gate: gate}
				}
				c := connect(t, s)
				c.greet(3)
				c.option(wire.OptGo, str(name), uint16(0))
				c.expect(wire.OptGo, wire.RepAck)
				c.request(0, wire.CmdWrite, 1, 0, 4, "slow")
				synctest.Wait()
				result := pausing(t.Context(), s, time.Minute)
				pending(t, result)
				close(gate)
				c.must(1, 0)
				if err := <-result; err != nil {
					t.Fatal(err)
				}
				about(t, "a write in the pause", c.writes(4), time.Minute)
				c.Close()
			})
		})
	}
}

func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := withDisk(t)
		one, two, idle := joined(t, s), joined(t, s), joined(t, s)
		start := time.Now().UTC()
		d.do("hangs write")
		one.request(0, wire.CmdWrite, 1, 0, 4, "soon")
		synctest.Wait()
		paused := pausing(t.Context(), s, time.Minute)
		two.request(0, wire.CmdWrite, 2, 4, 4, "late")
		time.Sleep(10 * time.Second)
		pending(t, paused)
		if seen := d.take(); seen != "" {
			t.Errorf("%s while a write is under way", seen)
		}
		wantMetrics(t, s, map[string]string{"nbd_server_paused": "1"})
		if st := s.Status(); st.Paused || !st.PauseStartedAt.Equal(start) || !st.PauseEndsAt.Equal(start.Add(time.Minute)) || st.InFlight != 1 {
			t.Errorf("the status is %+v", st)
		}
		d.do("recovers")
		one.must(1, 0)
		if err := <-paused; err != nil {
			t.Fatal(err)
		}
		if seen := d.take(); seen != "flushed" {
			t.Errorf("at the end of the write: %s", seen)
		}
		if !s.Status().Paused || s.Phase() != Serving {
			t.Errorf("the status is %+v", s.Status())
		}

		newcomer := joined(t, s)
		newcomer.request(0, wire.CmdRead, 3, 0, 8)
		one.request(0, wire.CmdFlush, 4, 0, 0)
		idle.request(0, wire.CmdDisc, 5, 0, 0)
		idle.eof()
		time.Sleep(49 * time.Second)
		synctest.Wait()
		if seen, has := d.take(), d.content(t, 8); seen != "" || has != "soon\x00\x00\x00\x00" {
			t.Errorf("while the server was paused: %s; the volume has %q", seen, has)
		}
		if s.inFlight.Load() != 0 || s.memory.held != 0 {
			t.Errorf("what waits holds %d places, %d bytes", s.inFlight.Load(), s.memory.held)
		}
		if !s.Resume() {
			t.Error("Resume found no pause")
		}
		two.must(2, 0)
		one.must(4, 0)
		newcomer.must(3, 0)
		newcomer.get(8)
		synctest.Wait()
		if seen, has := d.take(), d.content(t, 8); seen != "flushed" || has != "soonlate" {
			t.Errorf("after that: %s; the volume has %q", seen, has)
		}
		wantMetrics(t, s, map[string]string{"nbd_server_paused": "0"})
		if st := s.Status(); st.Paused || st.PauseStartedAt != nil || st.PauseEndsAt != nil {
			t.Errorf("the status is %+v", st)
		}
		if s.Resume() {
			t.Error("a second Resume found a pause")
		}
		s.Close()
		<-s.Done()
	})
}

// No command reaches the volume while the server is paused: all of them would
// fail there.
func TestPausedCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := withDisk(t)
		mustPause(t, s, time.Minute)
		for _, op := range []string{"read", "write", "flush", "trim", "zero", "extents"} {
			d.do("fails " + op)
		}
		var all []*rawClient
		for cmd := range wire.CmdBlockStatus + 1 {
			if cmd == wire.CmdDisc {
				continue
			}
			c := connect(t, s)
			c.begin(true)
			length, data := uint32(64<<10), ""
			switch cmd {
			case wire.CmdWrite:
				length, data = 4, "data"
			case wire.CmdFlush:
				length = 0
			}
			c.request(0, cmd, uint64(cmd), 0, length, data)
			all = append(all, c)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		d.do("recovers")
		s.Resume()
		for _, c := range all {
			if _, typ, cookie, p := c.chunk(); typ >= 1<<15 {
				t.Errorf("%v is answered %q", wire.Command(cookie), p)
			}
			c.Close()
		}
	})
}

// A read-only volume isn't flushed.
func TestPauseReadOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := withDisk(t)
		s.Exports[0].ReadOnly = true
		mustPause(t, s, time.Minute)
		if seen := d.take(); seen != "" {
			t.Errorf("a read-only volume was %s", seen)
		}
		s.Resume()
	})
}

// A volume that asks for a pause would wait for itself.
func TestPauseByBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := withDisk(t)
		for _, op := range []string{"write", "flush"} { // the second by the pause itself
			d.trouble[op] = func(ctx context.Context) error {
				failed(t, s.Pause(ctx, time.Minute), "a volume asks for it")
				return nil
			}
		}
		c := joined(t, s)
		c.request(0, wire.CmdWrite, 1, 0, 4, "data")
		c.must(1, 0)
		mustPause(t, s, time.Minute)
		s.Resume()
		d.trouble["flush"] = func(context.Context) error {
			if s.Resume() {
				t.Error("a pause that isn't complete yet was one")
			}
			return nil
		}
		failed(t, s.Pause(t.Context(), time.Minute), "resumed")
		c.Close()
	})
}
