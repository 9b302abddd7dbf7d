package nbdserver

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// resizeTimeout is how long anybody waits for a Backend to find out its size. A
// network file system that is gone answers never, and the old size is good
// enough to go on with: a handshake takes this much longer then, for each time
// that the client asks for the export.
const resizeTimeout = 3 * time.Second

var errStillSizing = errors.New("not closed: its size has been looked for without an answer: check the storage below it")

// Reload finds out the sizes of all exports whose Backend is a
// backend.Resizer. Connections that come from now on see them; those that are
// there keep theirs. An export whose size can't be found out within 3 s keeps
// the old one, and Reload returns the errors of all of these. Once the server
// is closing its volumes it returns ErrServerClosed.
func (s *Server) Reload(ctx context.Context) error {
	s.init()
	if s.Phase() >= Closing {
		return ErrServerClosed
	}
	errs := make([]error, len(s.Exports))
	var all sync.WaitGroup
	for i, e := range s.Exports {
		all.Go(func() { errs[i] = s.resize(ctx, e) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// sizeOf returns the size of an export as a client that negotiates is told it:
// what it is at this moment, or the last one known.
func (c *Conn) sizeOf(e *Export) uint64 {
	if err := c.srv.resize(c.ctx, e); err != nil {
		c.srv.sampled.Warn("the old size is kept", zap.Stringer("peer", c.peer), zap.Error(err))
	}
	return e.size.Load()
}

// resize finds out the size of an export. Each caller's look begins after the
// call, one at a time. It needs no place among the calls into Backends: there is
// one thread for each export at most, and newcomers must not wait for the
// requests of others.
func (s *Server) resize(ctx context.Context, e *Export) error {
	r, ok := e.Backend.(backend.Resizer)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, resizeTimeout)
	defer cancel()
	result := make(chan error, 1)
	select {
	case e.sizing <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("size of export %q: another look at it has no answer yet: %w", e.Name, ctx.Err())
	}
	go func() {
		defer func() { <-e.sizing }()
		size, err := s.guardedResize(ctx, r)
		if err != nil {
			result <- fmt.Errorf("size of export %q: %w", e.Name, err)
			return
		}
		if old := e.size.Swap(size); old != size {
			s.log.Info("the size has changed", zap.String("export", e.Name), zap.Uint64("from", old), zap.Uint64("to", size))
		}
		result <- nil
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("size of export %q: no answer: %w", e.Name, ctx.Err())
	}
}

// guardedResize turns a panic of the Backend into an error: there need be no
// connection that it could cost.
func (s *Server) guardedResize(ctx context.Context, r backend.Resizer) (size uint64, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.panics.Add(1)
			s.log.Error("panic", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return r.Resize(ctx)
}
