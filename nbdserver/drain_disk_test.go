package nbdserver

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// disk is a volume in a script. It does what it is told to in the middle of its
// operations, which are called read, write, flush, trim, zero, extents and close,
// and notes flushes and the close.
type disk struct {
	backend.Backend
	srv *Server

	mu      sync.Mutex
	trouble map[string]func(context.Context) error // by operation
	release chan struct{}                          // closed when what blocks or hangs may go on
	seen    []string
}

func newDisk(srv *Server, b backend.Backend) *disk {
	return &disk{Backend: b, srv: srv, trouble: map[string]func(context.Context) error{}, release: make(chan struct{})}
}

func (d *disk) see(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen = append(d.seen, what)
}

func (d *disk) take() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := strings.Join(d.seen, ", ")
	d.seen = nil
	return s
}

// do sets what the next operations do, in words; testdata/drain/README.md says
// in which.
func (d *disk) do(words string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch words {
	case "recovers":
		clear(d.trouble)
		fallthrough
	case "goes on":
		close(d.release)
		d.release = make(chan struct{})
		return true
	}
	release := d.release
	words, hangs := strings.CutPrefix(words, "hangs and ")
	verb, op, _ := strings.Cut(words, " ")
	switch verb {
	case "blocks": // until it recovers, or the context ends
		d.trouble[op] = func(ctx context.Context) error {
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	case "hangs": // whatever the context says
		d.trouble[op] = func(context.Context) error {
			<-release
			return nil
		}
	case "fails":
		d.trouble[op] = func(context.Context) error { return fmt.Errorf("%s: %w", op, syscall.EIO) }
	case "panics":
		op = strings.TrimPrefix(op, "in ")
		d.trouble[op] = func(context.Context) error { panic("in " + op) }
	case "calls":
		names, in, _ := strings.Cut(op, " in ")
		var calls []func(context.Context)
		for name := range strings.SplitSeq(names, "+") {
			call := backendCalls[name]
			if call == nil {
				return false
			}
			calls = append(calls, func(ctx context.Context) { call(d.srv, ctx) })
		}
		d.trouble[in] = func(ctx context.Context) error {
			if hangs {
				<-release
			}
			for _, call := range calls {
				call(ctx)
			}
			return nil
		}
	default:
		return false
	}
	return true
}

// backendCalls are what a Backend may do to the server that calls it.
var backendCalls = map[string]func(*Server, context.Context){
	"BeginDrain":        func(s *Server, _ context.Context) { s.BeginDrain("callback") },
	"Shutdown":          func(s *Server, ctx context.Context) { s.Shutdown(ctx) },
	"Close":             func(s *Server, _ context.Context) { s.Close() },
	"Disconnect(false)": func(_ *Server, ctx context.Context) { ConnFromContext(ctx).Disconnect(false) },
	"Disconnect(true)":  func(_ *Server, ctx context.Context) { ConnFromContext(ctx).Disconnect(true) },
}

func (d *disk) enter(ctx context.Context, op string) error {
	d.mu.Lock()
	trouble := d.trouble[op]
	d.mu.Unlock()
	if trouble == nil {
		return nil
	}
	return trouble(ctx)
}

func (d *disk) ReadAt(ctx context.Context, p []byte, off uint64) error {
	if err := d.enter(ctx, "read"); err != nil {
		return err
	}
	return d.Backend.ReadAt(ctx, p, off)
}

func (d *disk) WriteAt(ctx context.Context, p []byte, off uint64) error {
	if err := d.enter(ctx, "write"); err != nil {
		return err
	}
	return d.Backend.WriteAt(ctx, p, off)
}

func (d *disk) Flush(ctx context.Context) error {
	if err := d.enter(ctx, "flush"); err != nil {
		return err
	}
	d.see("flushed")
	return d.Backend.Flush(ctx)
}

func (d *disk) Trim(ctx context.Context, off, length uint64) error {
	if err := d.enter(ctx, "trim"); err != nil {
		return err
	}
	return d.Backend.Trim(ctx, off, length)
}

func (d *disk) WriteZeroes(ctx context.Context, off, length uint64, flags backend.ZeroFlags) error {
	if err := d.enter(ctx, "zero"); err != nil {
		return err
	}
	return d.Backend.WriteZeroes(ctx, off, length, flags)
}

func (d *disk) Extents(ctx context.Context, off, length uint64, max int) ([]backend.Extent, error) {
	if err := d.enter(ctx, "extents"); err != nil {
		return nil, err
	}
	return d.Backend.Extents(ctx, off, length, max)
}

func (d *disk) Close() error {
	if err := d.enter(context.Background(), "close"); err != nil {
		return err
	}
	d.see("closed")
	return d.Backend.Close()
}
