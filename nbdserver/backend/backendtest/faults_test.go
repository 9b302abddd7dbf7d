package backendtest_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/backend/backendtest"
)

// faulty is a volume with one fault: the functions that are set replace the
// methods of the sound volume that it is made of.
type faulty struct {
	backend.Backend
	info        func(i backend.Info) backend.Info
	readAt      func(ctx context.Context, p []byte, off uint64) error
	writeAt     func(ctx context.Context, p []byte, off uint64) error
	trim        func(ctx context.Context, off, length uint64) error
	writeZeroes func(ctx context.Context, off, length uint64, flags backend.ZeroFlags) error
	flush       func(ctx context.Context) error
	extents     func(ctx context.Context, off, length uint64, max int) ([]backend.Extent, error)
	cache       func(ctx context.Context, off, length uint64) error
	resize      func(ctx context.Context) (uint64, error)
}

func (f *faulty) Info() backend.Info {
	if f.info == nil {
		return f.Backend.Info()
	}
	return f.info(f.Backend.Info())
}

func (f *faulty) ReadAt(ctx context.Context, p []byte, off uint64) error {
	if f.readAt == nil {
		return f.Backend.ReadAt(ctx, p, off)
	}
	return f.readAt(ctx, p, off)
}

func (f *faulty) WriteAt(ctx context.Context, p []byte, off uint64) error {
	if f.writeAt == nil {
		return f.Backend.WriteAt(ctx, p, off)
	}
	return f.writeAt(ctx, p, off)
}

func (f *faulty) Trim(ctx context.Context, off, length uint64) error {
	if f.trim == nil {
		return f.Backend.Trim(ctx, off, length)
	}
	return f.trim(ctx, off, length)
}

func (f *faulty) WriteZeroes(ctx context.Context, off, length uint64, flags backend.ZeroFlags) error {
	if f.writeZeroes == nil {
		return f.Backend.WriteZeroes(ctx, off, length, flags)
	}
	return f.writeZeroes(ctx, off, length, flags)
}

func (f *faulty) Flush(ctx context.Context) error {
	if f.flush == nil {
		return f.Backend.Flush(ctx)
	}
	return f.flush(ctx)
}

func (f *faulty) Extents(ctx context.Context, off, length uint64, max int) ([]backend.Extent, error) {
	if f.extents == nil {
		return f.Backend.Extents(ctx, off, length, max)
	}
	return f.extents(ctx, off, length, max)
}

func (f *faulty) Cache(ctx context.Context, off, length uint64) error {
	if f.cache == nil {
		return f.Backend.Cache(ctx, off, length)
	}
	return f.cache(ctx, off, length)
}

func (f *faulty) Resize(ctx context.Context) (uint64, error) {
	if f.resize == nil {
		return f.Backend.(backend.Resizer).Resize(ctx)
	}
	return f.resize(ctx)
}

// fault is a mistake that a Backend may make and the suite must see.
type fault struct {
	name string
	// test is the test of the suite that is made for it.
	test string
	make func(f *faulty, b backend.Backend)
}

var faults = []fault{
	{"SizeIsRounded", "Info", func(f *faulty, _ backend.Backend) {
		f.info = func(i backend.Info) backend.Info { i.Size &^= 511; return i }
	}},
	{"BlockSizeIsOdd", "Info", func(f *faulty, _ backend.Backend) {
		f.info = func(i backend.Info) backend.Info { i.PreferredBlockSize = 3000; return i }
	}},
	{"HolesAreNotRead", "NewReadsAsZeroes", func(f *faulty, b backend.Backend) {
		f.readAt = func(ctx context.Context, p []byte, off uint64) error {
			got := make([]byte, len(p))
			err := b.ReadAt(ctx, got, off)
			if bytes.Count(got, []byte{0}) < len(got) {
				copy(p, got)
			}
			return err
		}
	}},
	{"WriteStopsAtAPage", "Edges", func(f *faulty, b backend.Backend) {
		f.writeAt = func(ctx context.Context, p []byte, off uint64) error {
			return b.WriteAt(ctx, p[:min(uint64(len(p)), 64<<10-off%(64<<10))], off)
		}
	}},
	{"WriteKeepsTheBuffer", "Buffers", func(f *faulty, b backend.Backend) {
		var kept atomic.Pointer[func() error]
		f.writeAt = func(ctx context.Context, p []byte, off uint64) error {
			late := func() error { return b.WriteAt(context.WithoutCancel(ctx), p, off) }
			kept.Store(&late)
			return nil
		}
		f.readAt = func(ctx context.Context, p []byte, off uint64) error {
			if late := kept.Swap(nil); late != nil {
				if err := (*late)(); err != nil {
					return err
				}
			}
			return b.ReadAt(ctx, p, off)
		}
	}},
	{"ZeroLeavesTheEdges", "Zero", func(f *faulty, b backend.Backend) {
		f.writeZeroes = func(ctx context.Context, off, length uint64, flags backend.ZeroFlags) error {
			start, end := (off+511)&^511, (off+length)&^511
			if start >= end {
				return nil
			}
			return b.WriteZeroes(ctx, start, end-start, flags)
		}
	}},
	{"ZeroIsATrim", "Zero", func(f *faulty, b backend.Backend) {
		f.writeZeroes = func(context.Context, uint64, uint64, backend.ZeroFlags) error { return nil }
	}},
	{"ZeroStopsAt64MiB", "ZeroLarge", func(f *faulty, b backend.Backend) {
		f.writeZeroes = func(ctx context.Context, off, length uint64, flags backend.ZeroFlags) error {
			return b.WriteZeroes(ctx, off, min(length, 64<<20), flags)
		}
	}},
	{"ZeroHas32Bits", "Huge", func(f *faulty, b backend.Backend) {
		f.writeZeroes = func(ctx context.Context, off, length uint64, flags backend.ZeroFlags) error {
			return b.WriteZeroes(ctx, off, uint64(uint32(length)), flags)
		}
	}},
	{"FastChangesAndRefuses", "Fast", func(f *faulty, b backend.Backend) {
		f.writeZeroes = func(ctx context.Context, off, length uint64, flags backend.ZeroFlags) error {
			err := b.WriteZeroes(ctx, off, length, flags)
			if err == nil && flags&backend.Fast != 0 {
				return backend.ErrNotFast
			}
			return err
		}
	}},
	{"FastDoesNothing", "Fast", func(f *faulty, b backend.Backend) {
		f.writeZeroes = func(ctx context.Context, off, length uint64, flags backend.ZeroFlags) error {
			if flags&backend.Fast != 0 {
				return nil
			}
			return b.WriteZeroes(ctx, off, length, flags)
		}
	}},
	{"FastLosesWhatIsNotFlushed", "Fast", func(f *faulty, b backend.Backend) {
		flushed := make([]byte, b.Info().Size)
		f.flush = func(ctx context.Context) error {
			return b.ReadAt(ctx, flushed, 0)
		}
		f.writeZeroes = func(ctx context.Context, off, length uint64, flags backend.ZeroFlags) error {
			if flags&backend.Fast == 0 {
				return b.WriteZeroes(ctx, off, length, flags)
			}
			if err := b.WriteAt(ctx, flushed[off:off+length], off); err != nil {
				return err
			}
			return backend.ErrNotFast
		}
	}},
	{"NotFastUnasked", "Zero", func(f *faulty, _ backend.Backend) {
		f.writeZeroes = func(context.Context, uint64, uint64, backend.ZeroFlags) error { return backend.ErrNotFast }
	}},
	{"CacheTrims", "Cache", func(f *faulty, b backend.Backend) {
		f.cache = b.Trim
	}},
	{"CacheHas32Bits", "Cache", func(f *faulty, b backend.Backend) {
		f.cache = func(ctx context.Context, off, length uint64) error {
			if length > 1<<32-1 {
				return syscall.EINVAL
			}
			return b.Cache(ctx, off, length)
		}
	}},
	{"TrimTakesWholePages", "Trim", func(f *faulty, b backend.Backend) {
		f.trim = func(ctx context.Context, off, length uint64) error {
			start, end := off&^4095, min((off+length+4095)&^4095, b.Info().Size)
			return b.Trim(ctx, start, end-start)
		}
	}},
	{"TrimLeavesGarbage", "Trim", func(f *faulty, b backend.Backend) {
		f.trim = func(ctx context.Context, off, length uint64) error {
			return b.WriteAt(ctx, bytes.Repeat([]byte{2}, int(length)), off)
		}
	}},
	{"ExtentsAreTooLong", "Extents", func(f *faulty, b backend.Backend) {
		f.extents = func(ctx context.Context, off, length uint64, max int) ([]backend.Extent, error) {
			list, err := b.Extents(ctx, off, length, max)
			if err == nil {
				list[len(list)-1].Length++
			}
			return list, err
		}
	}},
	{"ExtentsAreTooMany", "Extents", func(f *faulty, b backend.Backend) {
		f.extents = func(ctx context.Context, off, length uint64, max int) ([]backend.Extent, error) {
			return b.Extents(ctx, off, length, max+1)
		}
	}},
	{"ExtentsAreMissing", "Extents", func(f *faulty, b backend.Backend) {
		f.extents = func(context.Context, uint64, uint64, int) ([]backend.Extent, error) { return nil, nil }
	}},
	{"ExtentsAreMisplaced", "Extents", func(f *faulty, b backend.Backend) {
		f.extents = func(ctx context.Context, off, length uint64, max int) ([]backend.Extent, error) {
			return b.Extents(ctx, off&^4095, length, max)
		}
	}},
	{"DataIsSaidToBeZero", "Extents", func(f *faulty, b backend.Backend) {
		f.extents = func(_ context.Context, _, length uint64, _ int) ([]backend.Extent, error) {
			return []backend.Extent{{Length: length, Zero: true}}, nil
		}
	}},
	{"CanceledCountsAsDone", "Canceled", func(f *faulty, b backend.Backend) {
		f.writeAt = func(ctx context.Context, p []byte, off uint64) error {
			if ctx.Err() != nil {
				return nil
			}
			return b.WriteAt(ctx, p, off)
		}
	}},
	{"WritesAreOfWholePages", "Interleaved", func(f *faulty, b backend.Backend) {
		// Right for one writer at a time, as a missing lock is.
		f.writeAt = func(ctx context.Context, p []byte, off uint64) error {
			start := off &^ 4095
			end := min((off+uint64(len(p))+4095)&^4095, b.Info().Size)
			whole := make([]byte, end-start)
			if err := b.ReadAt(ctx, whole, start); err != nil {
				return err
			}
			runtime.Gosched()
			copy(whole[off-start:], p)
			return b.WriteAt(ctx, whole, start)
		}
	}},
}

// faultsEnv makes TestFaultyVolumes run, in a process of its own.
const faultsEnv = "BACKENDTEST_FAULTS"

// TestFaultyVolumes fails, in those of its subtests that see the fault.
func TestFaultyVolumes(t *testing.T) {
	if os.Getenv(faultsEnv) == "" {
		return
	}
	for _, fault := range slices.Concat(faults, resizeFaults) {
		t.Run(fault.name, func(t *testing.T) {
			backendtest.Run(t, backendtest.Kind{
				Open: func(t *testing.T, size uint64) backend.Backend {
					b := newResizable(t, size)
					f := &faulty{Backend: b}
					fault.make(f, b)
					return f
				},
				Resize: func(_ *testing.T, b backend.Backend, size uint64) {
					b.(*faulty).Backend.(*resizable).now.Store(size)
				},
			})
		})
	}
}

// TestFaultsAreSeen checks that every fault fails the test that is made for it.
func TestFaultsAreSeen(t *testing.T) {
	for _, fault := range slices.Concat(faults, resizeFaults) {
		name := "TestFaultyVolumes/" + fault.name + "/" + fault.test
		cmd := exec.Command(os.Args[0], "-test.run=^"+strings.ReplaceAll(name, "/", "$/^")+"$")
		cmd.Env = append(os.Environ(), faultsEnv+"=1")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "--- FAIL: "+name+" ") {
			t.Errorf("%s doesn't fail: %v\n%s", name, err, out)
		}
	}
}
