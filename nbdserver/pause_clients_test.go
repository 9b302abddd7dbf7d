package nbdserver

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

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
