package nbdserver

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/report"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// Every call that a Backend may make, from each of its methods that serves a
// request. What comes of it is in testdata/drain/callbacks.txt; here it is that
// nothing hangs, and that an answer comes or doesn't.
func TestCallbacks(t *testing.T) {
	methods := map[string]func(*rawClient){
		"read":    func(c *rawClient) { c.request(0, wire.CmdRead, 1, 0, 512) },
		"write":   func(c *rawClient) { c.request(0, wire.CmdWrite, 1, 0, 4, "data") },
		"flush":   func(c *rawClient) { c.request(0, wire.CmdFlush, 1, 0, 0) },
		"trim":    func(c *rawClient) { c.request(0, wire.CmdTrim, 1, 0, 512) },
		"zero":    func(c *rawClient) { c.request(0, wire.CmdWriteZeroes, 1, 0, 512) },
		"extents": func(c *rawClient) { c.request(0, wire.CmdBlockStatus, 1, 0, 512) },
	}
	calls := map[string]struct {
		phase    Phase // afterwards
		answered bool
	}{
		"BeginDrain":        {Draining, true},
		"Shutdown":          {Draining, true},
		"Close":             {Ended, false},
		"Disconnect(false)": {Serving, true},
		"Disconnect(true)":  {Serving, false},
	}
	for method, ask := range methods {
		for call, want := range calls {
			t.Run(call+" in "+method, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newMemory(t, 1<<20)
					d := newDisk(s, s.Exports[0].Backend)
					s.Exports[0].Backend = d
					d.do("calls " + call + "+" + call + " in " + method) // twice is as good as once
					other := connect(t, s)
					other.begin(false)
					c := connect(t, s)
					c.begin(true)
					ask(c)
					if want.answered {
						if _, _, cookie, _ := c.chunk(); cookie != 1 {
							t.Errorf("request %d was answered", cookie)
						}
					} else {
						c.eof()
					}
					synctest.Wait()
					if p := s.Phase(); p != want.phase {
						t.Errorf("phase %v", p)
					}
					if want.phase != Ended {
						d.do("recovers")
						other.request(0, wire.CmdFlush, 1, 0, 0)
						other.must(1, 0)
					}
					c.Close()
					other.Close()
					s.Shutdown(t.Context())
				})
			})
		}
	}
}

// ConnFromContext knows the connection in everything that serves a request, and
// none in the last flush.
func TestConnFromContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		var seen atomic.Pointer[Conn]
		s.ConnState = func(c *Conn, state ConnState) { seen.Store(c) }
		d := newDisk(s, s.Exports[0].Backend)
		s.Exports[0].Backend = d
		var got []*Conn
		d.trouble["flush"] = func(ctx context.Context) error {
			got = append(got, ConnFromContext(ctx))
			return nil
		}
		c := connect(t, s)
		c.begin(false)
		c.request(wire.FlagFUA, wire.CmdWrite, 1, 0, 4, "data")
		c.must(1, 0)
		c.Close()
		s.Shutdown(t.Context())
		if len(got) != 2 || got[0] == nil || got[0] != seen.Load() || got[1] != nil {
			t.Errorf("connections of the flushes: %v, not %v and none", got, seen.Load())
		}
		if ConnFromContext(t.Context()) != nil {
			t.Error("a context of somebody else has a connection")
		}
	})
}

// A client that hasn't finished the negotiation yet can be disconnected too, by
// whoever was told of it by ConnState.
func TestDisconnectWhoNegotiates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		var last atomic.Pointer[Conn]
		s.ConnState = func(c *Conn, state ConnState) {
			if state == StateNegotiating {
				last.Store(c)
			}
		}
		forced := connect(t, s)
		forced.greet(3)
		synctest.Wait()
		last.Load().Disconnect(true)
		forced.eof()

		soft := connect(t, s)
		soft.greet(3)
		synctest.Wait()
		last.Load().Disconnect(false)
		soft.option(wire.OptGo, str(""), uint16(0))
		soft.expect(wire.OptGo, wire.RepAck)
		soft.request(0, wire.CmdRead, 1, 0, 4)
		soft.must(1, wire.ESHUTDOWN)
		soft.request(0, wire.CmdDisc, 2, 0, 0)
		soft.eof()
		last.Load().Disconnect(true) // one that has ended
		if err := s.Shutdown(t.Context()); err != nil || s.Report().ExitCode != report.ExitClean {
			t.Errorf("%v, report %+v", err, s.Report())
		}
	})
}

// After Disconnect(true) no request of the connection gets to the Backend, however
// many have been received.
func TestForcedDisconnectStopsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		d := newDisk(s, s.Exports[0].Backend)
		s.Exports[0].Backend = d
		var calls atomic.Int32
		d.trouble["write"] = func(ctx context.Context) error {
			calls.Add(1)
			ConnFromContext(ctx).Disconnect(true)
			return nil
		}
		c := connect(t, s)
		c.begin(false)
		for range maxWork { // all that may be under way
			s.Exports[0].work <- struct{}{}
		}
		for i := range 20 {
			c.request(0, wire.CmdWrite, uint64(i), 0, 4, "data")
		}
		synctest.Wait()
		<-s.Exports[0].work // one may begin, and the next one when it is done
		if b, _ := io.ReadAll(c); len(b) > 0 {
			t.Errorf("answers came: %x", b)
		}
		synctest.Wait()
		if n := calls.Load(); n != 1 {
			t.Errorf("%d writes began", n)
		}
		s.Close()
		<-s.Done()
	})
}

// slowToClose is a connection that takes its time to close, as one with TLS may.
type slowToClose struct{ *socket }

func (c slowToClose) Close() error {
	time.Sleep(time.Second)
	return c.socket.Close()
}

// A request that ends because its connection is closed isn't answered, not even
// with an error.
func TestForcedDisconnectAnswersNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		d := newDisk(s, s.Exports[0].Backend)
		s.Exports[0].Backend = d
		d.do("blocks write")
		client, server := socketPair()
		s.init()
		s.start(slowToClose{server})
		c := rawClient{t, client}
		c.begin(false)
		c.request(0, wire.CmdWrite, 1, 0, 4, "data")
		synctest.Wait()
		s.Close()
		c.eof()
		<-s.Done()
	})
}
