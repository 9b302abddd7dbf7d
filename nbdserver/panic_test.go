package nbdserver

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/report"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// panicky is a Backend of which every call panics.
type panicky struct{ backend.Backend }

func (panicky) ReadAt(context.Context, []byte, uint64) error  { panic("on purpose") }
func (panicky) WriteAt(context.Context, []byte, uint64) error { panic("on purpose") }
func (panicky) Flush(context.Context) error                   { panic("on purpose") }
func (panicky) Trim(context.Context, uint64, uint64) error    { panic("on purpose") }
func (panicky) Cache(context.Context, uint64, uint64) error   { panic("on purpose") }
func (panicky) Close() error                                  { panic("on purpose") }
func (panicky) WriteZeroes(context.Context, uint64, uint64, backend.ZeroFlags) error {
	panic("on purpose")
}
func (panicky) Extents(context.Context, uint64, uint64, int) ([]backend.Extent, error) {
	panic("on purpose")
}

// onePanic checks that one panic was counted, and logged with the stack of its
// cause.
func onePanic(t *testing.T, s *Server, logs *observer.ObservedLogs, cause string) {
	t.Helper()
	wantMetrics(t, s, map[string]string{`nbd_server_panics_total`: "1"})
	lines := logs.FilterField(zap.Any("panic", "on purpose")).All()
	if len(lines) != 1 || lines[0].Level != zap.ErrorLevel || !strings.Contains(lines[0].ContextMap()["stack"].(string), cause) {
		t.Errorf("the log has %v, not one line with %s in its stack", lines, cause)
	}
}

// TestPanicInARequest costs the connection that the request came from.
func TestPanicInARequest(t *testing.T) {
	for cmd, method := range map[wire.Command]string{wire.CmdRead: "ReadAt", wire.CmdWrite: "WriteAt", wire.CmdTrim: "Trim",
		wire.CmdWriteZeroes: "WriteZeroes", wire.CmdBlockStatus: "Extents"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 1<<20)
				fine := s.Exports[0]
				s.Exports = append(s.Exports, &Export{Name: "broken", Backend: panicky{fine.Backend}})
				logs := observed(s)
				other, c := connect(t, s), connect(t, s)
				other.begin(false)
				c.greet(3)
				c.option(wire.OptStructuredReply)
				c.expect(wire.OptStructuredReply, wire.RepAck)
				c.option(wire.OptSetMetaContext, str("broken"), uint32(1), str("base:allocation"))
				c.expect(wire.OptSetMetaContext, wire.RepAck)
				c.option(wire.OptGo, str("broken"), uint16(0))
				c.expect(wire.OptGo, wire.RepAck)
				c.request(0, cmd, 1, 0, 4)
				if cmd == wire.CmdWrite {
					c.put("boom")
				}
				c.eof()
				synctest.Wait()
				onePanic(t, s, logs, "panicky."+method)
				if line := oneLine(t, logs); line.ContextMap()["ended"] != errPanicked.Error() {
					t.Errorf("the connection's line says %v", line.ContextMap())
				}
				other.request(0, wire.CmdWrite, 1, 0, 4, "fine")
				other.must(1, 0)
				other.Close()
				synctest.Wait()
				if n := s.inFlight.Load(); n != 0 {
					t.Errorf("%d requests left in flight", n)
				}
			})
		})
	}
}

// TestPanicInFlush fails the flush of everybody who waits for it, and every later
// one; the connections live, since whose flush it was is chance.
func TestPanicInFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		s.Exports[0].Backend = panicky{s.Exports[0].Backend}
		logs := observed(s)
		c := connect(t, s)
		c.begin(false)
		for range 2 {
			c.request(0, wire.CmdFlush, 1, 0, 0)
			c.must(1, wire.EIO)
		}
		onePanic(t, s, logs, "panicky.Flush")
		c.Close()
	})
}

func TestPanicInClose(t *testing.T) {
	s := newMemory(t, 1<<20)
	s.Exports[0].Backend = panicky{s.Exports[0].Backend}
	s.Exports[0].ReadOnly = true // no flush
	logs := observed(s)
	if err := s.Shutdown(t.Context()); err == nil || !strings.Contains(err.Error(), "on purpose") {
		t.Errorf("Shutdown returned %v", err)
	}
	if r := s.Report(); r.ExitCode != report.ExitFlushFailed {
		t.Errorf("the report is %+v", r)
	}
	onePanic(t, s, logs, "panicky.Close")
}

// TestPanicInConnState costs the connection that it is told about, in whatever
// state, and not the process.
func TestPanicInConnState(t *testing.T) {
	for state, level := range map[ConnState]string{StateNegotiating: errPanicked.Error(), StateConnected: errPanicked.Error(), StateEnded: errGone.Error()} {
		t.Run(state.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 1<<20)
				var once sync.Once
				s.ConnState = func(_ *Conn, st ConnState) {
					if st == state {
						once.Do(func() { panic("on purpose") })
					}
				}
				logs := observed(s)
				c := connect(t, s)
				c.reach(state)
				if state == StateEnded {
					c.Close()
				} else {
					c.eof()
				}
				synctest.Wait()
				onePanic(t, s, logs, "TestPanicInConnState")
				if line := oneLine(t, logs); line.ContextMap()["ended"] != level {
					t.Errorf("the connection's line says %v", line.ContextMap())
				}
				if n := len(s.connections()); n != 0 {
					t.Errorf("%d connections left", n)
				}
				next := connect(t, s)
				next.begin(false)
				next.Close()
			})
		})
	}
}

// panickyConn is a connection that panics instead of greeting the client.
type panickyConn struct{ net.Conn }

func (panickyConn) Write([]byte) (int, error) { panic("on purpose") }

func TestPanicInNegotiation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		logs := observed(s)
		a, b := net.Pipe()
		s.init()
		s.start(panickyConn{b})
		(&rawClient{t, a}).eof()
		synctest.Wait()
		onePanic(t, s, logs, "panickyConn.Write")
		if line := oneLine(t, logs); line.ContextMap()["ended"] != errPanicked.Error() {
			t.Errorf("the connection's line says %v", line.ContextMap())
		}
	})
}
