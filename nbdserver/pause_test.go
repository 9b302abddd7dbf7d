package nbdserver

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

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

// A request whose payload is on its way doesn't hold up a pause, and doesn't
// break it; neither does a client that doesn't take its reply.
func TestPauseWaitsForNoClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := withDisk(t)
		writer, reader := joined(t, s), joined(t, s)
		writer.request(0, wire.CmdWrite, 1, 0, 4, "la")
		reader.request(0, wire.CmdRead, 2, 0, 8)
		synctest.Wait()
		mustPause(t, s, time.Minute)
		writer.put("te")
		time.Sleep(30 * time.Second)
		reader.must(2, 0)
		reader.get(8)
		if has := d.content(t, 4); has != "\x00\x00\x00\x00" {
			t.Errorf("while the server was paused the volume got %q", has)
		}
		s.Resume()
		writer.must(1, 0)
		if has := d.content(t, 4); has != "late" {
			t.Errorf("after that the volume has %q", has)
		}
		writer.Close()
		reader.Close()
	})
}

// More requests than there are places for are done before a pause is complete.
func TestPauseOfACrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := withDisk(t)
		d.do("hangs write")
		var all []*rawClient
		for range maxWork/maxRequests + 1 {
			c := joined(t, s)
			for i := range maxRequests {
				c.request(0, wire.CmdWrite, uint64(i), 0, 4, "data")
			}
			go io.Copy(io.Discard, c)
			all = append(all, c)
		}
		synctest.Wait()
		paused := pausing(t.Context(), s, time.Minute)
		time.Sleep(time.Second)
		pending(t, paused)
		d.do("goes on")
		if err := <-paused; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := s.Exports[0].requests[wire.CmdWrite][0].Load(); n != uint64(len(all))*maxRequests {
			t.Errorf("the pause is complete after %d writes", n)
		}
		for _, c := range all {
			c.Close()
		}
		s.Resume()
	})
}

// What waits for its turn under a rate when a pause comes doesn't take memory
// when the turn comes.
func TestPauseOfThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := withDisk(t)
		setLimits(t, s, Limits{Rate: Rate{BytesPerSecond: 64 << 10, Burst: 64 << 10}})
		c := joined(t, s)
		c.request(0, wire.CmdRead, 1, 0, 1<<20)
		synctest.Wait()
		mustPause(t, s, time.Minute)
		time.Sleep(59 * time.Second)
		synctest.Wait()
		if s.inFlight.Load() != 0 || s.memory.held != 0 {
			t.Errorf("what waits holds %d places, %d bytes", s.inFlight.Load(), s.memory.held)
		}
		s.Resume()
		c.must(1, 0)
		c.get(1 << 20)
		c.Close()
	})
}

// What ends a pause, before it is complete and after. Requests go on at once;
// the last time tells how late they are answered.
func TestPauseEnds(t *testing.T) {
	type ending struct {
		name    string
		end     func(s *Server, cancel func())
		why     string // of a pause that isn't complete
		drains  bool
		resumes time.Duration // a pause that is complete
	}
	drain := func(s *Server, _ func()) { s.BeginDrain("test") }
	for _, tt := range []ending{
		{"resume", func(s *Server, _ func()) { s.Resume() }, "resumed", false, 0},
		{"time", func(*Server, func()) { time.Sleep(time.Minute) }, "its time is over", false, time.Minute},
		{"context", func(_ *Server, cancel func()) { cancel() }, "given up: context canceled", false, time.Minute},
		{"drain", drain, "the server drains", true, 0},
	} {
		for _, policy := range []Policy{Refuse, Disconnect} {
			for _, complete := range []bool{false, true} {
				name := tt.name + ", " + policy.String() + ", pausing"
				if complete {
					name = tt.name + ", " + policy.String() + ", paused"
				}
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s, d := withDisk(t)
						logs := observed(s)
						s.DrainPolicy = bounds(policy)
						one, two := joined(t, s), joined(t, s)
						ctx, cancel := context.WithCancel(t.Context())
						defer cancel()
						if !complete {
							d.do("hangs write")
						}
						one.request(0, wire.CmdWrite, 1, 0, 4, "soon")
						synctest.Wait()
						paused := pausing(ctx, s, time.Minute)
						two.request(0, wire.CmdRead, 2, 4, 4)
						start := time.Now()
						if complete {
							if err := <-paused; err != nil {
								t.Fatal(err)
							}
						} else {
							pending(t, paused)
						}
						tt.end(s, cancel)
						if !complete {
							failed(t, <-paused, tt.why)
						}
						two.must(2, 0)
						two.get(4)
						if after := time.Since(start); complete && after != tt.resumes {
							t.Errorf("requests go on after %v", after)
						}
						synctest.Wait()
						if n := logs.FilterMessage("pause is over").FilterLevelExact(zap.WarnLevel).Len(); n != 1 && tt.name != "resume" {
							t.Errorf("%d warnings that the pause is over: %v", n, logs.All())
						}
						d.do("recovers")
						one.must(1, 0)
						err := s.Pause(t.Context(), time.Minute)
						if tt.drains {
							failed(t, err, "the server drains")
						} else if err != nil || !s.Resume() {
							t.Errorf("the next pause: %v", err)
						}
						one.Close()
						two.Close()
						s.BeginDrain("test")
						ended(t, s, 0, 0)
						failed(t, s.Pause(t.Context(), time.Minute), "the server drains")
					})
				})
			}
		}
	}
}

// Close doesn't wait for a pause.
func TestCloseWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := withDisk(t)
		c := joined(t, s)
		mustPause(t, s, time.Minute)
		c.request(0, wire.CmdRead, 1, 0, 1<<20)
		synctest.Wait()
		s.Close()
		ended(t, s, 0, 3)
	})
}

func TestPauseFlushFails(t *testing.T) {
	for trouble, why := range map[string]string{
		"fails flush":     `export "disk": flush: flush: input/output error`,
		"panics in flush": `export "disk": flush: flush panicked: in flush`,
	} {
		t.Run(trouble, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := withDisk(t)
				c := joined(t, s)
				d.do(trouble)
				failed(t, s.Pause(t.Context(), time.Minute), why)
				c.request(0, wire.CmdWrite, 1, 0, 4, "data")
				c.must(1, 0)
				d.do("recovers")
				failed(t, s.Pause(t.Context(), time.Minute), why) // it isn't forgotten
				c.Close()
				s.BeginDrain("test")
				ended(t, s, 0, 4)
			})
		})
	}
}

// A flush without an end doesn't keep the requests from going on, and the
// volume isn't closed under it.
func TestPauseFlushHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := withDisk(t)
		c := joined(t, s)
		d.do("hangs flush")
		failed(t, s.Pause(t.Context(), time.Minute), "its time is over")
		c.request(0, wire.CmdWrite, 1, 0, 4, "data")
		c.must(1, 0)
		c.Close()
		s.BeginDrain("test")
		time.Sleep(time.Minute)
		synctest.Wait()
		if seen := d.take(); seen != "" {
			t.Errorf("%s while a flush is under way", seen)
		}
		d.do("recovers")
		ended(t, s, time.Minute, 0)
		if seen := d.take(); seen != "flushed, flushed, closed" {
			t.Errorf("in the end: %s", seen)
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

// A pause that is asked for again is the same one, and ends when the last of
// its times is over.
func TestPauseAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := withDisk(t)
		c, other := joined(t, s), joined(t, s)
		d.do("hangs write")
		c.request(0, wire.CmdWrite, 1, 0, 4, "data")
		synctest.Wait()
		start := time.Now()
		one, two := pausing(t.Context(), s, time.Minute), pausing(t.Context(), s, time.Minute)
		time.Sleep(20 * time.Second)
		pending(t, one)
		pending(t, two)
		d.do("recovers")
		c.must(1, 0)
		for _, paused := range []<-chan error{one, two} {
			if err := <-paused; err != nil {
				t.Error(err)
			}
		}
		time.Sleep(20 * time.Second)
		mustPause(t, s, time.Minute)
		mustPause(t, s, time.Second)
		other.request(0, wire.CmdRead, 2, 0, 4)
		other.must(2, 0)
		other.get(4)
		about(t, "the pause", time.Since(start), 100*time.Second)
		if seen := d.take(); seen != "flushed" {
			t.Errorf("%s for one pause", seen)
		}
		c.Close()
		other.Close()
	})
}

func TestPauseForHowLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := withDisk(t)
		for _, atMost := range []time.Duration{Infinite, 0, MaxPause + 1} {
			failed(t, s.Pause(t.Context(), atMost), "longer than 0 and at most 1h0m0s")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		failed(t, s.Pause(ctx, time.Minute), "context canceled")
		if s.Resume() {
			t.Error("a pause was begun")
		}
		mustPause(t, s, MaxPause)
		for range 20 { // whoever is gone doesn't end the pause of another
			failed(t, s.Pause(ctx, time.Minute), "context canceled")
		}
		if !s.Resume() {
			t.Error("the pause was ended")
		}
	})
}

// A pause that is prolonged in the moment in which it ends goes on, or begins
// anew.
func TestPauseAgainAtTheLastMoment(t *testing.T) {
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			s, _ := withDisk(t)
			mustPause(t, s, time.Minute)
			time.Sleep(time.Minute)
			mustPause(t, s, time.Minute)
			time.Sleep(time.Minute - 1)
			if !s.Resume() {
				t.Error("the pause has ended")
			}
		})
	}
}

// A connection that is cut while the server is paused ends at once, and what
// it has asked for isn't done.
func TestCutWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := withDisk(t)
		begun, waiting := joined(t, s), joined(t, s)
		begun.request(0, wire.CmdWrite, 1, 0, 4, "da")
		synctest.Wait()
		mustPause(t, s, time.Minute)
		begun.put("ta")
		waiting.request(0, wire.CmdWrite, 1, 0, 4, "data")
		synctest.Wait()
		for _, c := range s.connections() {
			c.Disconnect(true)
		}
		begun.eof()
		waiting.eof()
		synctest.Wait()
		if n := len(s.connections()); n != 0 {
			t.Errorf("%d connections are left", n)
		}
		s.Resume()
		synctest.Wait()
		if has := d.content(t, 4); has != "\x00\x00\x00\x00" {
			t.Errorf("the volume has %q", has)
		}
	})
}

// A client that leaves is noticed at once if it waits for nothing, and
// otherwise when the pause is over.
func TestLeaveWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := withDisk(t)
		idle, waiting := joined(t, s), joined(t, s)
		mustPause(t, s, time.Minute)
		waiting.request(0, wire.CmdWrite, 1, 0, 4, "data")
		idle.Close()
		waiting.Close()
		synctest.Wait()
		if n := len(s.connections()); n != 1 {
			t.Errorf("%d connections are left", n)
		}
		s.Resume()
		synctest.Wait()
		if n := len(s.connections()); n != 0 {
			t.Errorf("%d connections are left after the pause", n)
		}
		if has := d.content(t, 4); has != "data" { // it had come
			t.Errorf("the volume has %q", has)
		}
		mustPause(t, s, time.Minute) // every place was given back
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

// Who doesn't move while the server is paused isn't taken for stalled, and has
// the usual time from then on.
func TestPausedIsNotStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, hog, c := scarce(t)
		waited := make(chan time.Duration, 1)
		go func() { waited <- c.reads(4096) }()
		synctest.Wait()
		mustPause(t, s, time.Hour)
		time.Sleep(30 * time.Minute)
		if n := len(s.connections()); n != 2 {
			t.Errorf("%d connections are left", n)
		}
		s.Resume()
		about(t, "the wait", <-waited, 30*time.Minute+stallTimeout)
		hog.eof()
		c.Close()
	})
}
