package nbdserver

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/report"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// calling is a Backend that calls back when it is to write, as a plugin of nbdkit
// calls nbdkit_shutdown(3) or nbdkit_disconnect(3).
type calling struct {
	backend.Backend
	call   func(ctx context.Context, p []byte)
	closed atomic.Bool
}

func (c *calling) WriteAt(ctx context.Context, p []byte, off uint64) error {
	c.call(ctx, p)
	return c.Backend.WriteAt(ctx, p, off)
}

func (c *calling) Close() error {
	c.closed.Store(true)
	return c.Backend.Close()
}

// newCalling is a server whose Backend calls back.
func newCalling(t *testing.T, call func(ctx context.Context, p []byte)) (*Server, *calling) {
	s := newMemory(t, 1<<20)
	b := &calling{Backend: s.Exports[0].Backend, call: call}
	s.Exports[0].Backend = b
	return s, b
}

// nbdkit_shutdown(3) by a Backend: it returns, the write and later requests are
// served as ever, and the Backend is closed when the client has left.
func TestShutdownFromABackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *Server
		s, b := newCalling(t, func(context.Context, []byte) { s.BeginDrain("backend=full") })
		c := connect(t, s)
		c.begin(false)
		for i := range 3 {
			c.request(0, wire.CmdWrite, uint64(i), 0, 4, "last")
			c.must(uint64(i), 0)
			if p := s.Phase(); p != Draining || b.closed.Load() {
				t.Errorf("the phase is %v, the backend closed: %v", p, b.closed.Load())
			}
		}
		c.request(0, wire.CmdDisc, 3, 0, 0)
		c.eof()
		ended(t, s, 0, report.ExitClean)
		if r := s.Report(); r.Condition != "backend=full" || !b.closed.Load() {
			t.Errorf("the report is %+v, the backend closed: %v", r, b.closed.Load())
		}
	})
}

// nbdkit_disconnect(3) by a Backend, while another write of the same connection
// is in flight.
func TestDisconnectFromABackend(t *testing.T) {
	for name, force := range map[string]bool{"soft": false, "force": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				s, _ := newCalling(t, func(ctx context.Context, p []byte) {
					switch string(p) {
					case "slow":
						<-release
					case "end!":
						ConnFromContext(ctx).Disconnect(force)
					}
				})
				c, other := connect(t, s), connect(t, s)
				c.begin(false)
				other.begin(false)
				c.request(0, wire.CmdWrite, 1, 0, 4, "slow")
				synctest.Wait()
				c.request(0, wire.CmdWrite, 2, 4, 4, "end!")
				if force {
					c.eof() // and no answer before it
					close(release)
				} else {
					c.must(2, 0)
					c.request(0, wire.CmdRead, 3, 0, 4)
					c.must(3, wire.ESHUTDOWN)
					close(release)
					c.must(1, 0)
					c.request(0, wire.CmdDisc, 4, 0, 0)
					c.eof()
				}
				again := connect(t, s)
				again.begin(false)
				for _, c := range []*rawClient{other, again} {
					c.request(0, wire.CmdWrite, 5, 8, 4, "fine")
					c.must(5, 0)
					c.Close()
				}
			})
		})
	}
}
