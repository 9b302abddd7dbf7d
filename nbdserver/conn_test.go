package nbdserver

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

type testError struct{ errno syscall.Errno }

func (e *testError) Error() string { return "test: " + e.errno.Error() }
func (e *testError) Unwrap() error { return e.errno }

func newListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestHandshakeTimeout(t *testing.T) {
	for name, say := range map[string]func(*rawClient){
		"nothing":   func(*rawClient) {},
		"greeting":  func(c *rawClient) { c.greet(3) },
		"an option": func(c *rawClient) { c.greet(3); c.option(wire.OptList); c.replies(wire.OptList) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 1<<20)
				c := connect(t, s)
				start := time.Now()
				say(c)
				if name == "nothing" {
					c.get(18) // a pipe has no buffer for the greeting
				}
				c.eof()
				if d := time.Since(start); d != DefaultHandshakeTimeout {
					t.Errorf("closed after %v", d)
				}
			})
		})
	}
}

// Behind what breaks the protocol the server closes, and the client gets what was
// answered before, however much it has sent on: a reset would destroy it.
func TestBadRequestDestroysNoAnswer(t *testing.T) {
	more := make([]byte, 4*socketBuffer)
	for name, tt := range map[string]struct {
		connected bool
		say       []byte
		see       func(*rawClient)
	}{
		"option of 2 MiB": {false, pack("IHAVEOPT", uint32(wire.OptInfo), uint32(2<<20), more), func(c *rawClient) {
			c.expect(wire.OptInfo, wire.RepErrTooBig)
		}},
		"too many options": {false, pack(bytes.Repeat(pack("IHAVEOPT", uint32(wire.OptList), uint32(0)), maxOptions+maxPerExport), more), func(c *rawClient) {
			for range maxOptions + maxPerExport {
				c.expect(wire.OptList, wire.RepAck)
			}
		}},
		"no request": {true, pack(uint32(0x25609513), uint16(0), uint16(wire.CmdRead), uint64(1), uint64(0), uint32(512), more), func(c *rawClient) {
			c.must(1, 0)
			c.get(512)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 1<<20)
				c := connectSocket(t, s)
				if tt.connected {
					c.begin(false)
				} else {
					c.greet(3)
				}
				c.put(tt.say)
				synctest.Wait()
				tt.see(c)
				if b := c.all(); len(b) > 0 {
					t.Errorf("then comes %x", b)
				}
				// Whoever goes on sending is cut off.
				time.Sleep(lingerTimeout - time.Millisecond)
				c.put(more)
				time.Sleep(2 * time.Millisecond)
				if _, err := c.Write(more); err == nil {
					t.Error("the connection is open still")
				}
			})
		})
	}
}

// Who has broken the protocol and sends without end isn't listened to for as long as the
// one who may still read his answer.
func TestBadRequestIsNotReadWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		c := connectSocket(t, s)
		c.greet(3)
		c.put(pack("IHAVEOPT", uint32(wire.OptInfo), uint32(2<<20)))
		begin, sent := time.Now(), 0
		for piece := make([]byte, 1<<20); sent < 2*lingerBytes; {
			n, err := c.Write(piece)
			if sent += n; err != nil {
				break
			}
		}
		if sent < lingerBytes || sent > lingerBytes+2*socketBuffer+1<<20 || time.Since(begin) >= lingerTimeout {
			t.Errorf("%d bytes were read in %v, want %d at most", sent, time.Since(begin), lingerBytes)
		}
	})
}

func TestSilentClientIsServedWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		c := connect(t, s)
		c.begin(false)
		time.Sleep(100 * time.Hour)
		c.request(0, wire.CmdRead, 1, 0, 4)
		c.must(1, 0)
		c.get(4)
		c.Close()
	})
}

func TestConnectionCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		s.SetLimits(Limits{MaxConnections: 2})
		a, b := connect(t, s), connect(t, s)
		a.begin(false)
		b.begin(false)
		connect(t, s).eof()
		a.request(0, wire.CmdDisc, 1, 0, 0)
		a.eof()
		synctest.Wait()
		c := connect(t, s)
		c.begin(false)
		if n := s.refused[tooMany].Load(); n != 1 {
			t.Errorf("%d connections refused", n)
		}
		b.Close()
		c.Close()
	})
}

func TestPanicCostsOneConnection(t *testing.T) {
	s := newMemory(t, 1<<20)
	g := gate(s)
	addr := listen(t, s)
	other := dial(t, addr)
	other.begin(false)
	c := dial(t, addr)
	c.begin(false)
	g.panics.Store(true)
	c.request(0, wire.CmdWrite, 1, 0, 4, "boom")
	c.eof()
	g.panics.Store(false)
	other.request(0, wire.CmdWrite, 1, 0, 4, "fine")
	other.must(1, 0)
	if n := s.panics.Load(); n != 1 {
		t.Errorf("%d panics counted", n)
	}
}

func TestRequestsRunInParallel(t *testing.T) {
	s := newMemory(t, 1<<20)
	g := gate(s)
	g.gate, g.began = make(chan struct{}), make(chan struct{})
	c := dial(t, listen(t, s))
	c.begin(false)
	for i := range 8 {
		c.request(0, wire.CmdWrite, uint64(i), uint64(i)*4, 4, "data")
	}
	for range 8 {
		<-g.began
	}
	// A read overtakes all of them.
	c.request(0, wire.CmdRead, 99, 0, 4)
	c.must(99, 0)
	c.get(4)
	close(g.gate)
	for range 8 {
		if _, e := c.simple(); e != 0 {
			t.Error(e)
		}
	}
}

// However many clients ask for however much, the Backends have a bounded number
// of calls to do at a time: each may block a thread.
func TestWorkIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		g := gate(s)
		g.readGate = make(chan struct{})
		const clients = 2 * maxWork / maxRequests
		for range clients {
			c := connect(t, s)
			c.begin(false)
			for i := range maxRequests {
				c.request(0, wire.CmdRead, uint64(i), 0, 1)
			}
			defer c.Close()
			go func() { // answers come in the end
				for range maxRequests {
					c.simple()
					c.get(1)
				}
			}()
		}
		synctest.Wait()
		if flying, working := s.inFlight.Load(), g.reading.Load(); flying != clients*maxRequests || working != maxWork {
			t.Errorf("%d requests in flight, %d of them in the Backend", flying, working)
		}
		close(g.readGate)
		synctest.Wait()
		if n := s.inFlight.Load(); n != 0 {
			t.Errorf("%d requests left in flight", n)
		}
	})
}

func TestShareOfWork(t *testing.T) {
	for exports, want := range map[int]int{1: 256, 2: 128, 8: 32, 20: 32} {
		s := &Server{}
		for range exports {
			s.Exports = append(s.Exports, newMemory(t, 1<<20).Exports...)
		}
		s.init()
		for _, e := range s.Exports {
			if n := cap(e.work); n != want {
				t.Errorf("%d calls at a time into each of %d volumes, not %d", n, exports, want)
			}
		}
	}
}

// A volume whose storage hangs has its own share of the calls, and takes none
// from another.
func TestHungVolumeStopsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := twoVolumes(t)
		g := gate(s)
		g.readGate = make(chan struct{})
		var waiting []*rawClient
		for range maxWork / maxRequests {
			c := connect(t, s)
			c.begin(false)
			for i := range uint64(maxRequests) {
				c.request(0, wire.CmdRead, i, 0, 1)
			}
			waiting = append(waiting, c)
		}
		synctest.Wait()
		if n := g.reading.Load(); n != maxWork/2 {
			t.Errorf("%d calls into one of two volumes", n)
		}
		other := connect(t, s)
		other.greet(3)
		other.option(wire.OptGo, str("second"), uint16(0))
		other.expect(wire.OptGo, wire.RepAck)
		other.request(0, wire.CmdRead, 1, 0, 512)
		synctest.Wait()
		if n := s.Exports[1].requests[wire.CmdRead][0].Load(); n != 1 {
			t.Error("a read waits for those of another volume")
		}
		close(g.readGate)
		other.must(1, 0)
		other.get(512)
		for _, c := range waiting {
			for range maxRequests {
				c.simple()
				c.get(1)
			}
		}
		closeAll(append(waiting, other)...)
	})
}

func TestFlusher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, calls atomic.Int32
		f := flusher{flush: func(context.Context) error {
			if running.Add(1) != 1 {
				t.Error("two flushes at a time")
			}
			time.Sleep(time.Second)
			running.Add(-1)
			calls.Add(1)
			return nil
		}}
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 15 * time.Millisecond)
				before := calls.Load()
				if running.Load() == 1 {
					before++ // the one under way doesn't cover this call
				}
				if err := f.Flush(t.Context()); err != nil {
					t.Error(err)
				}
				if calls.Load() <= before {
					t.Error("no flush began after the call")
				}
			})
		}
		all.Wait()
		if n := calls.Load(); n > 4 {
			t.Errorf("%d flushes for 100 callers within 1.5 s", n)
		}
	})
}

func TestFlusherFailureSticks(t *testing.T) {
	calls := 0
	panics := 0
	f := flusher{panicked: func(any) { panics++ }, flush: func(context.Context) error {
		calls++
		if calls == 1 {
			panic("disk on fire")
		}
		return nil
	}}
	for range 3 {
		if err := f.Flush(t.Context()); err == nil || !strings.Contains(err.Error(), "disk on fire") {
			t.Errorf("Flush returned %v", err)
		}
	}
	if calls != 1 || panics != 1 {
		t.Errorf("%d flushes, %d panics told of", calls, panics)
	}
	if n := f.failures.Load(); n != 3 {
		t.Errorf("%d failures counted", n)
	}
}
