package backendtest_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/backend/backendtest"
	"github.com/nbdexport/nbdexport/nbdserver/backend/memory"
)

// resizable is a sound volume in memory whose size changes. What is beyond its
// end keeps its place in the memory below.
type resizable struct {
	backend.Backend
	now   atomic.Uint64 // the size
	found atomic.Uint64 // what Resize has found
}

func newResizable(t *testing.T, size uint64) *resizable {
	t.Helper()
	// Twice the size leaves room to grow.
	m, err := memory.New(min(2*size, memory.MaxSize))
	if err != nil {
		t.Fatal(err)
	}
	r := &resizable{Backend: m}
	r.now.Store(size)
	r.found.Store(size)
	return r
}

func (r *resizable) Info() backend.Info {
	i := r.Backend.Info()
	i.Size = r.found.Load()
	return i
}

func (r *resizable) Resize(context.Context) (uint64, error) {
	size := r.now.Load()
	r.found.Store(size)
	return size, nil
}

func (r *resizable) ReadAt(ctx context.Context, p []byte, off uint64) error {
	if off+uint64(len(p)) > r.now.Load() {
		return backend.ErrShrunk
	}
	return r.Backend.ReadAt(ctx, p, off)
}

func (r *resizable) WriteAt(ctx context.Context, p []byte, off uint64) error {
	if off+uint64(len(p)) > r.now.Load() {
		return syscall.ENOSPC
	}
	return r.Backend.WriteAt(ctx, p, off)
}

func (r *resizable) WriteZeroes(ctx context.Context, off, length uint64, flags backend.ZeroFlags) error {
	if off+length > r.now.Load() {
		return syscall.ENOSPC
	}
	return r.Backend.WriteZeroes(ctx, off, length, flags)
}

// resizeFaults are the faults of a resizable volume.
var resizeFaults = []fault{
	{"ResizeIsNotTold", "Resize", func(f *faulty, b backend.Backend) {
		info := b.Info()
		f.info = func(backend.Info) backend.Info { return info }
	}},
	{"ResizeOnlyGrows", "Resize", func(f *faulty, b backend.Backend) {
		most := b.Info().Size
		f.resize = func(ctx context.Context) (uint64, error) {
			size, err := b.(backend.Resizer).Resize(ctx)
			most = max(most, size)
			return most, err
		}
	}},
	{"GrowthIsNotWritable", "Resize", func(f *faulty, b backend.Backend) {
		size := b.Info().Size
		f.writeAt = func(ctx context.Context, p []byte, off uint64) error {
			if off+uint64(len(p)) > size {
				return syscall.ENOSPC
			}
			return b.WriteAt(ctx, p, off)
		}
	}},
	{"ShrunkReadsAsZeroes", "Resize", func(f *faulty, b backend.Backend) {
		f.readAt = func(ctx context.Context, p []byte, off uint64) error {
			err := b.ReadAt(ctx, p, off)
			if errors.Is(err, backend.ErrShrunk) {
				clear(p)
				return nil
			}
			return err
		}
	}},
	{"WritesMakeItLargerAgain", "Resize", func(f *faulty, b backend.Backend) {
		f.writeAt = func(ctx context.Context, p []byte, off uint64) error {
			v := b.(*resizable)
			if end := off + uint64(len(p)); end > v.now.Load() {
				v.now.Store(end)
			}
			return b.WriteAt(ctx, p, off)
		}
	}},
	{"SizeIsNotAtomic", "ResizeInUse", func(f *faulty, b backend.Backend) {
		// While it is looked for, there is nothing; and it takes until a read has
		// come meanwhile.
		var looking atomic.Bool
		var once sync.Once
		read := make(chan struct{})
		f.resize = func(ctx context.Context) (uint64, error) {
			looking.Store(true)
			defer looking.Store(false)
			<-read
			return b.(backend.Resizer).Resize(ctx)
		}
		f.readAt = func(ctx context.Context, p []byte, off uint64) error {
			if looking.Load() {
				once.Do(func() { close(read) })
				return backend.ErrShrunk
			}
			return b.ReadAt(ctx, p, off)
		}
	}},
}

// TestResizable checks that what the faults are put into has none itself.
func TestResizable(t *testing.T) {
	backendtest.Run(t, backendtest.Kind{
		Open: func(t *testing.T, size uint64) backend.Backend { return newResizable(t, size) },
		Resize: func(_ *testing.T, b backend.Backend, size uint64) {
			b.(*resizable).now.Store(size)
		},
	})
}
