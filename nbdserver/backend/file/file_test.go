package file

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/backend/backendtest"
)

// image makes a sparse file and returns its path.
func image(t testing.TB, dir string, size uint64) string {
	t.Helper()
	file, err := os.CreateTemp(dir, "image")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	return file.Name()
}

func open(t testing.TB, path string, opt Options) *File {
	t.Helper()
	f, err := Open(path, opt)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// kind tests files in the directories that dir returns.
func kind(dir func(t *testing.T) string) backendtest.Kind {
	return backendtest.Kind{
		Open: func(t *testing.T, size uint64) backend.Backend {
			return open(t, image(t, dir(t), size), Options{})
		},
		Reopen: func(t *testing.T, closed backend.Backend) backend.Backend {
			return open(t, closed.(*File).path, Options{})
		},
		ReadOnly: func(t *testing.T, content []byte) backend.Backend {
			path := image(t, dir(t), 0)
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			return open(t, path, Options{ReadOnly: true})
		},
		Resize: func(t *testing.T, b backend.Backend, size uint64) {
			if err := os.Truncate(b.(*File).path, int64(size)); err != nil {
				t.Fatal(err)
			}
		},
	}
}

func TestRegularFile(t *testing.T) {
	k := kind((*testing.T).TempDir)
	// A file on ext4 ends just short of 16 TiB.
	k.MaxSize = 8 << 40
	backendtest.Run(t, k)
}

// TestWithoutFallocate runs the suite on what a file system without any of the
// optional calls is like.
func TestWithoutFallocate(t *testing.T) {
	k := kind((*testing.T).TempDir)
	k.MaxSize = 128 << 20
	plain := k.Open
	k.Open = func(t *testing.T, size uint64) backend.Backend {
		f := plain(t, size).(*File)
		f.punch.unsupported.Store(true)
		f.zeroRange.unsupported.Store(true)
		f.reserve.unsupported.Store(true)
		f.noSeekHole.Store(true)
		return f
	}
	k.Reopen = nil
	k.ReadOnly = nil
	backendtest.Run(t, k)
}

// blocks returns how many bytes are allocated for a file.
func blocks(t *testing.T, f *File) int64 {
	t.Helper()
	// ext4 allocates when it writes back, unless it is told to.
	if err := f.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestAllocation checks that holes are holes, and that space is kept, or taken,
// where it should be.
func TestAllocation(t *testing.T) {
	const size = 8 << 20
	ctx := t.Context()
	f := open(t, image(t, t.TempDir(), size), Options{})
	t.Cleanup(func() { f.Close() })
	empty := blocks(t, f)
	full := func() {
		t.Helper()
		p := make([]byte, size)
		for i := range p {
			p[i] = 1
		}
		if err := f.WriteAt(ctx, p, 0); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, err error, least, most int64) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if n := blocks(t, f) - empty; n < least || n > most {
			t.Errorf("%s: %d bytes are allocated, not %d to %d", what, n, least, most)
		}
	}
	const some = 64 << 10 // what a file system may need for itself
	full()
	check("all written", nil, size, size+some)
	check("half trimmed", f.Trim(ctx, 0, size/2), size/2, size/2+some)
	check("zeroed with mayTrim", f.WriteZeroes(ctx, 0, size, backend.MayTrim), 0, some)
	check("zeroed without, from holes", f.WriteZeroes(ctx, 0, size, 0), size, size+some)
	full()
	check("zeroed without, from data", f.WriteZeroes(ctx, 0, size, 0), size, size+some)
	f.zeroRange.unsupported.Store(true)
	check("trimmed", f.Trim(ctx, 0, size), 0, some)
	check("reserved, from holes", f.WriteZeroes(ctx, 0, size, 0), size, size+some)
	f.reserve.unsupported.Store(true)
	check("trimmed again", f.Trim(ctx, 0, size), 0, some)
	check("written", f.WriteZeroes(ctx, 0, size, 0), size, size+some)
	f.punch.unsupported.Store(true)
	check("can't be trimmed", f.Trim(ctx, 0, size), size, size+some)
	if got := blocks(t, f); got < size {
		t.Errorf("%d bytes are allocated after a trim that isn't possible", got)
	}
}

func TestShrunk(t *testing.T) {
	ctx := t.Context()
	path := image(t, t.TempDir(), 1<<20)
	f := open(t, path, Options{})
	t.Cleanup(func() { f.Close() })
	if err := os.Truncate(path, 512<<10); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	if err := f.ReadAt(ctx, p, 512<<10-50); !errors.Is(err, backend.ErrShrunk) {
		t.Errorf("a read across the new end: %v", err)
	}
	if err := f.ReadAt(ctx, p, 512<<10-100); err != nil {
		t.Errorf("a read before the new end: %v", err)
	}
	// What is missing is data: a client must come and read it, and fail.
	const hole, rest = 512 << 10, 512 << 10
	for off, want := range map[uint64][]backend.Extent{
		0:          {{Length: hole, Hole: true, Zero: true}, {Length: rest}},
		hole:       {{Length: rest}},
		hole + 100: {{Length: rest - 100}},
	} {
		list, err := f.Extents(ctx, off, 1<<20-off, 10)
		if err != nil || !slices.Equal(list, want) {
			t.Errorf("Extents from %d on: %+v, %v; want %+v", off, list, err, want)
		}
	}
}

// TestGrowth checks that nothing makes the file larger.
func TestGrowth(t *testing.T) {
	ctx := t.Context()
	path := image(t, t.TempDir(), 10_000)
	f := open(t, path, Options{})
	t.Cleanup(func() { f.Close() })
	for what, err := range map[string]error{
		"WriteAt across the end":  f.WriteAt(ctx, make([]byte, 2), 9_999),
		"WriteAt behind the end":  f.WriteAt(ctx, make([]byte, 2), 1<<63),
		"WriteZeroes":             f.WriteZeroes(ctx, 0, 10_001, 0),
		"Trim with a wrapped end": f.Trim(ctx, 2, 1<<64-1),
	} {
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := f.WriteZeroes(ctx, 0, 10_000, 0); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != 10_000 {
		t.Errorf("the file has %d bytes now (%v)", st.Size(), err)
	}
}

func TestErrorsSayWhere(t *testing.T) {
	f := open(t, image(t, t.TempDir(), 8192), Options{})
	f.Close()
	err := f.ReadAt(t.Context(), make([]byte, 100), 4096)
	want := "read of 100 bytes at 4096 of \"" + f.path + "\": bad file descriptor"
	if !errors.Is(err, unix.EBADF) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := f.Flush(t.Context()); !errors.Is(err, unix.EBADF) {
		t.Errorf("Flush: %v", err)
	}
}

func TestCanceledZeroing(t *testing.T) {
	f := open(t, image(t, t.TempDir(), 1<<30), Options{})
	t.Cleanup(func() { f.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for what, err := range map[string]error{
		"WriteZeroes": f.WriteZeroes(ctx, 0, 1<<30, 0),
		"Trim":        f.Trim(ctx, 0, 1<<30),
	} {
		if err != context.Canceled {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FuzzModel runs streams of operations against a plain slice.
func FuzzModel(f *testing.F) {
	f.Fuzz(func(t *testing.T, ops []byte) {
		v := open(t, image(t, t.TempDir(), backendtest.ModelSize), Options{})
		t.Cleanup(func() { v.Close() })
		backendtest.Model(t, v, ops)
	})
}

func BenchmarkFile(b *testing.B) {
	f := open(b, image(b, b.TempDir(), 64<<20), Options{})
	b.Cleanup(func() { f.Close() })
	backendtest.Benchmark(b, f)
}
