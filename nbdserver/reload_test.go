package nbdserver

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/report"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// elastic is a volume whose size is what the test says, up to that of the
// memory below it.
type elastic struct {
	backend.Backend
	now, found atomic.Uint64
	fails      atomic.Pointer[error]
	panics     atomic.Bool
	gate       chan struct{} // nil: open
	closed     atomic.Bool
}

func (e *elastic) Info() backend.Info {
	i := e.Backend.Info()
	i.Size = e.found.Load()
	return i
}

func (e *elastic) Resize(context.Context) (uint64, error) {
	if e.gate != nil {
		<-e.gate
	}
	if e.panics.Load() {
		panic("elastic: asked to")
	}
	if err := e.fails.Load(); err != nil {
		return 0, *err
	}
	e.found.Store(e.now.Load())
	return e.now.Load(), nil
}

func (e *elastic) ReadAt(ctx context.Context, p []byte, off uint64) error {
	if off+uint64(len(p)) > e.now.Load() {
		return backend.ErrShrunk
	}
	return e.Backend.ReadAt(ctx, p, off)
}

func (e *elastic) Close() error {
	e.closed.Store(true)
	return e.Backend.Close()
}

// newElastic is a server of one elastic volume of 1 MiB.
func newElastic(t *testing.T) (*Server, *elastic) {
	t.Helper()
	s := newMemory(t, 4<<20)
	e := &elastic{Backend: s.Exports[0].Backend}
	e.now.Store(1 << 20)
	e.found.Store(1 << 20)
	s.Exports[0].Backend = e
	return s, e
}

// goSize chooses the default export by OptGo, or asks for it by OptInfo, and
// returns the size that the client is told.
func (c *rawClient) goSize(o wire.Option) (size uint64) {
	c.t.Helper()
	c.option(o, str(""), uint16(0))
	for {
		switch typ, p := c.reply(o); {
		case typ == wire.RepInfo && binary.BigEndian.Uint16(p) == 0:
			size = binary.BigEndian.Uint64(p[2:])
		case typ == wire.RepAck:
			return size
		default:
			c.t.Fatalf("%v was answered %#x", o, uint32(typ))
		}
	}
}

// TestSizeIsLive changes the size under connections.
func TestSizeIsLive(t *testing.T) {
	s, e := newElastic(t)
	addr := listen(t, s)
	join := func(want uint64) *rawClient {
		t.Helper()
		c := dial(t, addr)
		c.greet(3)
		if got := c.goSize(wire.OptGo); got != want {
			t.Errorf("GO told a size of %d, not %d", got, want)
		}
		return c
	}
	read := func(c *rawClient, offset uint64, want wire.Errno) {
		t.Helper()
		c.request(0, wire.CmdRead, offset, offset, 512)
		c.must(offset, want)
		if want == 0 {
			c.get(512)
		}
	}
	old := join(1 << 20)
	asking := dial(t, addr)
	asking.greet(3)
	if got := asking.goSize(wire.OptInfo); got != 1<<20 {
		t.Errorf("INFO told a size of %d", got)
	}

	e.now.Store(2 << 20)
	if got := asking.goSize(wire.OptInfo); got != 2<<20 {
		t.Errorf("INFO told a size of %d", got)
	}
	oldest := dial(t, addr)
	oldest.greet(3)
	oldest.option(wire.OptExportName)
	if got := oldest.u64(); got != 2<<20 {
		t.Errorf("EXPORT_NAME told a size of %d", got)
	}
	oldest.u16()
	grown := join(2 << 20)
	for _, c := range []*rawClient{grown, oldest} {
		read(c, 2<<20-512, 0)
		read(c, 2<<20, wire.EINVAL)
	}
	read(old, 1<<20-512, 0)
	read(old, 1<<20, wire.EINVAL)
	old.request(0, wire.CmdWrite, 1, 1<<20, 4, "data")
	old.must(1, wire.ENOSPC)

	e.now.Store(512 << 10)
	shrunk := join(512 << 10)
	read(shrunk, 512<<10, wire.EINVAL)
	read(grown, 512<<10, wire.EIO) // it was told so, but nothing is there
	read(grown, 0, 0)
	if got := s.Status().Exports[0].Size; got != 512<<10 {
		t.Errorf("the status has a size of %d", got)
	}
}

func TestReload(t *testing.T) {
	s, e := newElastic(t)
	other, o := newElastic(t)
	fixed := newMemory(t, 4096)
	other.Exports[0].Name, fixed.Exports[0].Name = "other", "fixed"
	s.Exports = append(s.Exports, other.Exports[0], fixed.Exports[0])
	sizes := func(want ...uint64) {
		t.Helper()
		for i, x := range s.Status().Exports {
			if x.Size != want[i] {
				t.Errorf("%s has a size of %d, not %d", x.Name, x.Size, want[i])
			}
		}
	}
	if err := s.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	sizes(1<<20, 1<<20, 4096)
	e.now.Store(2 << 20)
	o.now.Store(3 << 20)
	var gone error = syscall.ESTALE
	e.fails.Store(&gone)
	// One that fails keeps nobody else.
	if err := s.Reload(t.Context()); !errors.Is(err, gone) || !strings.Contains(err.Error(), `export "disk"`) {
		t.Errorf("got %v", err)
	}
	sizes(1<<20, 3<<20, 4096)
	// It keeps nobody from its old size either.
	c := connect(t, s)
	c.greet(3)
	if got := c.goSize(wire.OptGo); got != 1<<20 {
		t.Errorf("GO told a size of %d", got)
	}
	c.Close()
	e.fails.Store(nil)
	e.panics.Store(true)
	if err := s.Reload(t.Context()); err == nil || s.panics.Load() != 1 {
		t.Errorf("after a panic: %v, %d panics", err, s.panics.Load())
	}
	e.panics.Store(false)
	if err := s.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	sizes(2<<20, 3<<20, 4096)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Reload(t.Context()); err != ErrServerClosed {
		t.Errorf("after the end: %v", err)
	}
}

// TestResizeHangs: storage that doesn't answer holds up a handshake, and the
// drain, for a bounded time.
func TestResizeHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, e := newElastic(t)
		e.gate = make(chan struct{})
		e.now.Store(2 << 20)
		start := time.Now()
		clients := []*rawClient{connect(t, s), connect(t, s)}
		for _, c := range clients {
			c.greet(3)
			c.option(wire.OptGo, str(""), uint16(0))
		}
		for _, c := range clients {
			c.expect(wire.OptGo, wire.RepAck)
			c.request(0, wire.CmdRead, 1, 1<<20-4, 4)
			c.must(1, 0)
			c.get(4)
			c.request(0, wire.CmdRead, 2, 1<<20, 4)
			c.must(2, wire.EINVAL)
		}
		if d := time.Since(start); d != resizeTimeout {
			t.Errorf("the handshakes took %v", d)
		}
		if err := s.Reload(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Reload: %v", err)
		}
		// It answers in the end, and the next one hangs again.
		e.gate <- struct{}{}
		synctest.Wait()
		if got := s.Exports[0].size.Load(); got != 2<<20 {
			t.Errorf("the size is %d", got)
		}
		c := connect(t, s)
		c.greet(3)
		c.option(wire.OptGo, str(""), uint16(0))
		synctest.Wait()
		// Closing by force doesn't wait for the handshake.
		start = time.Now()
		for _, conn := range s.connections() {
			conn.Disconnect(true)
		}
		synctest.Wait()
		if n := len(s.connections()); n != 0 || time.Since(start) != 0 {
			t.Errorf("%d connections are left after %v", n, time.Since(start))
		}
		s.BeginDrain("signal=SIGTERM") // without any bound
		ended(t, s, resizeTimeout, report.ExitFlushFailed)
		if r := s.Report(); !strings.Contains(r.Error, "its size") || e.closed.Load() {
			t.Errorf("the report is %+v, the volume closed: %v", r, e.closed.Load())
		}
		close(e.gate)
	})
}

// TestResizeNeedsNoPlace: a newcomer is told the size while the Backends have
// all the calls to do that they may.
func TestResizeNeedsNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, e := newElastic(t)
		s.init()
		for range maxWork {
			s.Exports[0].work <- struct{}{}
		}
		e.now.Store(2 << 20)
		c := connect(t, s)
		defer c.Close()
		start := time.Now()
		c.greet(3)
		if got := c.goSize(wire.OptGo); got != 2<<20 || time.Since(start) != 0 {
			t.Errorf("a size of %d after %v", got, time.Since(start))
		}
	})
}
