package nbdserver

import (
	"context"
	"fmt"
	"sync"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// recorder remembers what its Backend was asked to do with ranges, and lets
// tests change what it says.
type recorder struct {
	backend.Backend
	info    backend.Info // instead of that of the Backend, but for the size
	zeroErr error
	extents func(off, length uint64, max int) ([]backend.Extent, error)

	mu    sync.Mutex
	calls []string
}

func record(s *Server) *recorder {
	r := &recorder{Backend: s.Exports[0].Backend}
	r.info = r.Backend.Info()
	s.Exports[0].Backend = r
	return r
}

func (r *recorder) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, fmt.Sprintf(format, args...))
}

// taken returns the calls since it was called before.
func (r *recorder) taken() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}

func (r *recorder) Info() backend.Info { return r.info }

func (r *recorder) ReadAt(ctx context.Context, p []byte, off uint64) error {
	r.note("read %d+%d", off, len(p))
	return r.Backend.ReadAt(ctx, p, off)
}

func (r *recorder) Trim(ctx context.Context, off, length uint64) error {
	r.note("trim %d+%d", off, length)
	return r.Backend.Trim(ctx, off, length)
}

func (r *recorder) WriteZeroes(ctx context.Context, off, length uint64, flags backend.ZeroFlags) error {
	r.note("zero %d+%d %d", off, length, flags)
	if r.zeroErr != nil {
		return r.zeroErr
	}
	return r.Backend.WriteZeroes(ctx, off, length, flags&^backend.Fast)
}

func (r *recorder) Cache(_ context.Context, off, length uint64) error {
	r.note("cache %d+%d", off, length)
	return nil
}

func (r *recorder) Extents(ctx context.Context, off, length uint64, max int) ([]backend.Extent, error) {
	r.note("extents %d+%d", off, length)
	if r.extents != nil {
		return r.extents(off, length, max)
	}
	return r.Backend.Extents(ctx, off, length, max)
}
