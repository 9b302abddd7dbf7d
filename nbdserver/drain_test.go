package nbdserver

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/report"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// bounds is a policy with a grace of 10 s and a timeout of 30 s.
func bounds(p Policy) *DrainPolicy {
	return &DrainPolicy{Grace: 10 * time.Second, Timeout: 30 * time.Second, Policy: p}
}

// ended waits for the end and checks when and how it came.
func ended(t *testing.T, s *Server, after time.Duration, code int) {
	t.Helper()
	<-s.Done()
	r := s.Report()
	if got := r.FinishedAt.Sub(r.StartedAt); got != after {
		t.Errorf("the drain took %v, not %v", got, after)
	}
	if r.ExitCode != code {
		t.Errorf("exit code %d, not %d; report %+v", r.ExitCode, code, r)
	}
}

func TestDrain(t *testing.T) {
	tests := []struct {
		name   string
		policy *DrainPolicy
		// client is connected when the drain begins. It returns when it is
		// done; the connection is closed by the test's end only.
		client func(t *testing.T, c *rawClient)
		after  time.Duration
		code   int
		cut    int
	}{
		{
			name: "client leaves within the grace", policy: bounds(Refuse),
			client: func(t *testing.T, c *rawClient) {
				time.Sleep(9 * time.Second)
				c.request(0, wire.CmdRead, 7, 0, 4)
				c.must(7, 0)
				c.get(4)
				c.request(0, wire.CmdDisc, 8, 0, 0)
			},
			after: 9 * time.Second,
		},
		{
			name: "client vanishes within the grace", policy: bounds(Refuse),
			client: func(t *testing.T, c *rawClient) {
				time.Sleep(time.Second)
				c.Close()
			},
			after: time.Second,
		},
		{
			name: "refused after the grace, then leaves", policy: bounds(Refuse),
			client: func(t *testing.T, c *rawClient) {
				time.Sleep(11 * time.Second)
				c.request(0, wire.CmdRead, 7, 0, 4)
				c.must(7, wire.ESHUTDOWN)
				c.request(0, wire.CmdWrite, 8, 0, 4, "data")
				c.must(8, wire.ESHUTDOWN)
				c.request(0, wire.CmdDisc, 9, 0, 0)
			},
			after: 11 * time.Second,
		},
		{
			name: "refused, stays, is cut off", policy: bounds(Refuse),
			client: func(t *testing.T, c *rawClient) { c.eof() },
			after:  30 * time.Second, code: report.ExitClientsCut, cut: 1,
		},
		{
			name: "idle client is disconnected after the grace", policy: bounds(Disconnect),
			client: func(t *testing.T, c *rawClient) { c.eof() },
			after:  10 * time.Second,
		},
		{
			name: "no grace", policy: &DrainPolicy{Timeout: time.Minute, Policy: Disconnect},
			client: func(t *testing.T, c *rawClient) { c.eof() },
		},
		{
			name: "half a request is no request", policy: bounds(Disconnect),
			client: func(t *testing.T, c *rawClient) {
				c.put(uint32(0x25609513), uint16(0))
				c.eof()
			},
			after: 10 * time.Second,
		},
		{
			name: "a write whose payload stalls is cut off", policy: bounds(Disconnect),
			client: func(t *testing.T, c *rawClient) {
				c.request(0, wire.CmdWrite, 1, 0, 8, "half")
				c.eof()
			},
			after: 30 * time.Second, code: report.ExitClientsCut, cut: 1,
		},
		{
			name: "a write whose payload comes late completes", policy: bounds(Disconnect),
			client: func(t *testing.T, c *rawClient) {
				c.request(0, wire.CmdWrite, 1, 0, 8, "half")
				time.Sleep(12 * time.Second)
				c.put("half")
				c.must(1, 0)
				c.eof()
			},
			after: 12 * time.Second,
		},
		{
			name: "timeout before the grace", policy: &DrainPolicy{Grace: Infinite, Timeout: 5 * time.Second},
			client: func(t *testing.T, c *rawClient) { c.eof() },
			after:  5 * time.Second, code: report.ExitClientsCut, cut: 1,
		},
		{
			name: "no bound: as long as the client likes", policy: nil,
			client: func(t *testing.T, c *rawClient) {
				time.Sleep(1000 * time.Hour)
				c.request(0, wire.CmdWrite, 1, 0, 4, "late")
				c.must(1, 0)
				c.request(0, wire.CmdDisc, 2, 0, 0)
			},
			after: 1000 * time.Hour,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 1<<20)
				s.DrainPolicy = tt.policy
				c := connect(t, s)
				defer c.Close()
				c.begin(false)
				s.BeginDrain("file-created=/stop")
				s.BeginDrain("signal=SIGTERM") // the first one is reported
				tt.client(t, c)
				ended(t, s, tt.after, tt.code)
				if r := s.Report(); r.Condition != "file-created=/stop" || r.ClientsCut != tt.cut {
					t.Errorf("condition %q, %d clients cut", r.Condition, r.ClientsCut)
				}
			})
		})
	}
}

func TestDrainWithoutClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		s.DrainPolicy = bounds(Refuse)
		s.BeginDrain("control=drain")
		ended(t, s, 0, report.ExitClean)
	})
}

func TestDrainLetsRequestsInFlightComplete(t *testing.T) {
	for _, policy := range []Policy{Refuse, Disconnect} {
		synctest.Test(t, func(t *testing.T) {
			s := newMemory(t, 1<<20)
			s.DrainPolicy = bounds(policy)
			g := gate(s)
			g.gate = make(chan struct{})
			c := connect(t, s)
			defer c.Close()
			c.begin(false)
			c.request(0, wire.CmdWrite, 1, 0, 4, "slow")
			s.BeginDrain("test")
			time.Sleep(20 * time.Second)
			synctest.Wait()
			if p := s.Phase(); p != Quiescing {
				t.Errorf("phase is %v with a request in flight", p)
			}
			close(g.gate)
			c.must(1, 0)
			if policy == Refuse {
				c.request(0, wire.CmdDisc, 2, 0, 0)
			} else {
				c.eof()
			}
			ended(t, s, 20*time.Second, report.ExitClean)
		})
	}
}

func TestDrainRefusesWhoNegotiates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		s.SetLimits(Limits{HandshakeTimeout: time.Hour})
		s.DrainPolicy = bounds(Refuse)
		c := connect(t, s)
		c.greet(3)
		s.BeginDrain("test")
		for _, o := range []wire.Option{wire.OptList, wire.OptGo, wire.OptInfo, wire.OptStructuredReply, 99} {
			c.option(o, str(""), uint16(0))
			c.expect(o, wire.RepErrShutdown)
		}
		// It counts as a client until the grace is over.
		time.Sleep(9 * time.Second)
		if p := s.Phase(); p != Draining {
			t.Errorf("phase is %v while a client negotiates", p)
		}
		c.eof()
		ended(t, s, 10*time.Second, report.ExitClean)
	})
}

func TestDrainAcknowledgesAbort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		c := connect(t, s)
		c.greet(3)
		s.BeginDrain("test")
		c.option(wire.OptAbort)
		c.expect(wire.OptAbort, wire.RepAck)
		c.eof()
		ended(t, s, 0, report.ExitClean)
	})
}

func TestDrainRefusesNewcomers(t *testing.T) {
	s := newMemory(t, 1<<20)
	addr := listen(t, s)
	first := dial(t, addr)
	first.begin(false)
	s.BeginDrain("test")
	if c, err := (&rawDialer{}).Dial(addr.Network(), addr.String()); err == nil {
		c.Close()
		t.Error("a newcomer was let in")
	}
	first.request(0, wire.CmdRead, 1, 0, 4)
	first.must(1, 0)
	first.get(4)
	first.request(0, wire.CmdDisc, 2, 0, 0)
	first.eof()
	<-s.Done()
}

func TestCloseCutsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		gate(s).gate = make(chan struct{}) // never opened: the context must end it
		c := connect(t, s)
		c.begin(false)
		c.request(0, wire.CmdWrite, 1, 0, 4, "lost")
		synctest.Wait()
		s.BeginDrain("signal=SIGTERM")
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		c.eof()
		ended(t, s, 0, report.ExitClientsCut)
	})
}

func TestFailedFlushIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		gate(s).flushErr = &testError{syscall.EIO}
		c := connect(t, s)
		c.begin(false)
		c.request(0, wire.CmdFlush, 1, 0, 0)
		c.must(1, wire.EIO)
		c.Close()
		if err := s.Shutdown(t.Context()); err == nil {
			t.Error("Shutdown returned no error")
		}
		if r := s.Report(); r.ExitCode != report.ExitFlushFailed || r.Error == "" {
			t.Errorf("report %+v", r)
		}
	})
}

func TestHangingVolumeDoesNotHangTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		s.DrainPolicy = bounds(Refuse)
		release := make(chan struct{})
		s.Exports[0].Backend = &hanging{gated{Backend: s.Exports[0].Backend}, release}
		s.BeginDrain("test")
		ended(t, s, 30*time.Second+closeTimeout, report.ExitFlushFailed)
		close(release)
	})
}

// A flush may take what is left of the drain's time.
func TestSlowFlushAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		s.DrainPolicy = bounds(Refuse)
		release := make(chan struct{})
		s.Exports[0].Backend = &hanging{gated{Backend: s.Exports[0].Backend}, release}
		s.BeginDrain("test")
		time.Sleep(35 * time.Second)
		close(release)
		ended(t, s, 35*time.Second, report.ExitClean)
	})
}

// A client that was answered and told that it is over isn't cut off, however
// long it takes to close its side. (A pipe has no half-close; sockets have.)
func TestDisconnectedClientIsNotCutOff(t *testing.T) {
	s := newMemory(t, 1<<20)
	s.DrainPolicy = &DrainPolicy{Timeout: 100 * time.Millisecond, Policy: Disconnect}
	c := dial(t, listen(t, s))
	c.begin(false)
	s.BeginDrain("test")
	<-s.Done() // the client keeps its side open all the time
	if r := s.Report(); r.ExitCode != report.ExitClean || r.ClientsCut != 0 {
		t.Errorf("report %+v", r)
	}
}

func TestShutdownReturnsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		c := connect(t, s)
		c.begin(false)
		ctx, cancel := contextWithTimeout(t, time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, ctx.Err()) || err == nil {
			t.Errorf("Shutdown returned %v", err)
		}
		c.Close()
		<-s.Done()
	})
}

func TestServeAfterTheEnd(t *testing.T) {
	s := newMemory(t, 1<<20)
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	l := newListener(t)
	if err := s.Serve(l); !errors.Is(err, ErrServerClosed) {
		t.Errorf("Serve returned %v", err)
	}
	if _, err := l.Accept(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the listener is still open: %v", err)
	}
}
