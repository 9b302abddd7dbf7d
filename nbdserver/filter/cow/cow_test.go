package cow

import (
	"bytes"
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/backend/backendtest"
	"github.com/nbdexport/nbdexport/nbdserver/backend/file"
	"github.com/nbdexport/nbdexport/nbdserver/backend/memory"
)

// frozen is a base that fails the test when it is changed.
type frozen struct {
	backend.Backend
	t testing.TB
}

func (f frozen) WriteAt(context.Context, []byte, uint64) error {
	f.t.Error("the base was written to")
	return nil
}

func (f frozen) Trim(context.Context, uint64, uint64) error {
	f.t.Error("the base was trimmed")
	return nil
}

func (f frozen) WriteZeroes(context.Context, uint64, uint64, backend.ZeroFlags) error {
	f.t.Error("the base was zeroed")
	return nil
}

// noise is content that is the same for the same seed.
func noise(seed byte, n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

// content is a base of size bytes with content at its beginning and its end, 1 MiB
// at most each.
func content(t testing.TB, size uint64) frozen {
	t.Helper()
	m, err := memory.New(size)
	if err != nil {
		t.Fatal(err)
	}
	p := noise(1, int(min(size, 1<<20)))
	for _, off := range []uint64{0, size - uint64(len(p))} {
		if err := m.WriteAt(t.Context(), p, off); err != nil {
			t.Fatal(err)
		}
	}
	return frozen{m, t}
}

func open(t testing.TB, base backend.Backend, opt Options) *Overlay {
	t.Helper()
	if opt.Dir == "" {
		opt.Dir = t.TempDir()
	}
	o, err := Open(base, opt)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// openBase is open for a test that doesn't close what it opens.
func openBase(t testing.TB, base backend.Backend, opt Options) *Overlay {
	t.Helper()
	o := open(t, base, opt)
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return o
}

func write(t *testing.T, o *Overlay, p []byte, off uint64) {
	t.Helper()
	if err := o.WriteAt(t.Context(), p, off); err != nil {
		t.Fatalf("WriteAt of %d bytes at %d: %v", len(p), off, err)
	}
}

func read(t *testing.T, b backend.Backend, n int, off uint64) []byte {
	t.Helper()
	p := make([]byte, n)
	if err := b.ReadAt(t.Context(), p, off); err != nil {
		t.Fatalf("ReadAt of %d bytes at %d: %v", n, off, err)
	}
	return p
}

// uses checks how many blocks the scratch says that it holds, and by the states
// that it does.
func uses(t *testing.T, o *Overlay, what string, want uint64) {
	t.Helper()
	if used, _ := o.Scratch(); used != want*blockSize {
		t.Fatalf("%s: the scratch says that it holds %d bytes, not %d blocks", what, used, want)
	}
	held := uint64(0)
	for b := uint64(0); b < o.states.blocks; {
		st, next := o.states.run(b, o.states.blocks)
		if st == inScratch {
			held += next - b
		}
		b = next
	}
	if held != want {
		t.Fatalf("%s: %d blocks are in the scratch, not %d", what, held, want)
	}
}

// allocated is what the scratch takes on the disk, in bytes.
func (o *Overlay) allocated(t *testing.T) (n int64) {
	t.Helper()
	for _, f := range o.scratch {
		// Some file systems allocate only when they write back.
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		n += st.Blocks * 512
	}
	return n
}

func TestAcceptance(t *testing.T) {
	backendtest.Run(t, backendtest.Kind{
		Open: func(t *testing.T, size uint64) backend.Backend {
			m, err := memory.New(size)
			if err != nil {
				t.Fatal(err)
			}
			return open(t, frozen{m, t}, Options{})
		},
	})
}

// TestAcceptanceOverContent runs the suite on a volume that was zeroed: if the
// base shows through, it isn't zero.
func TestAcceptanceOverContent(t *testing.T) {
	backendtest.Run(t, backendtest.Kind{
		Open: func(t *testing.T, size uint64) backend.Backend {
			o := open(t, content(t, size), Options{})
			if err := o.WriteZeroes(t.Context(), 0, size, 0); err != nil {
				t.Fatal(err)
			}
			return o
		},
	})
}

// image makes a file with a base's content: data, a hole, data.
func image(t testing.TB, size int64) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "base")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	p := noise(2, int(size/3))
	for _, off := range []int64{0, size - int64(len(p))} {
		if _, err := f.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	return f.Name()
}

func openFile(t testing.TB, path string) *file.File {
	t.Helper()
	f, err := file.Open(path, file.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func checksum(t testing.TB, path string) [sha256.Size]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

// TestModel runs random operations on two overlays of one file. Each is compared
// with a copy of its own, and the file is what it was.
func TestModel(t *testing.T) {
	path := image(t, 3<<20+777)
	before := checksum(t, path)
	dir := t.TempDir()
	for seed := range byte(4) {
		o := openBase(t, openFile(t, path), Options{Dir: dir})
		backendtest.Model(t, o, noise(seed, 800))
		used, _ := o.Scratch()
		uses(t, o, "after the model", used/blockSize)
	}
	if checksum(t, path) != before {
		t.Error("the base has changed")
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("the directory of the scratch holds %v (%v)", names, err)
	}
}

// FuzzModel runs streams of operations against a plain slice.
func FuzzModel(f *testing.F) {
	f.Fuzz(func(t *testing.T, ops []byte) {
		o := open(t, content(t, backendtest.ModelSize), Options{})
		defer o.Close()
		backendtest.Model(t, o, ops)
		if used, _ := o.Scratch(); used > blocks(backendtest.ModelSize)*blockSize {
			t.Errorf("the scratch of a volume of %d bytes holds %d", backendtest.ModelSize, used)
		}
		if err := o.Trim(t.Context(), 0, backendtest.ModelSize); err != nil {
			t.Fatal(err)
		}
		if used, _ := o.Scratch(); used != 0 {
			t.Errorf("all is trimmed, and the scratch holds %d bytes", used)
		}
	})
}

func TestInfo(t *testing.T) {
	path := image(t, 1<<20+5)
	o := openBase(t, openFile(t, path), Options{})
	if err := os.Truncate(path, 2<<20); err != nil {
		t.Fatal(err)
	}
	info := o.Info()
	want := backend.Info{Size: 1<<20 + 5, PreferredBlockSize: blockSize, FastZero: true, Rotational: info.Rotational}
	if info != want {
		t.Errorf("Info is %+v, not %+v", info, want)
	}
	if _, ok := backend.Backend(o).(backend.Resizer); ok {
		t.Error("an overlay must not follow the size of its base")
	}
}

// TestSpace follows what the scratch takes on the disk.
func TestSpace(t *testing.T) {
	const size = 8 << 20
	ctx := t.Context()
	o := openBase(t, content(t, size), Options{})
	empty := o.allocated(t)
	check := func(what string, err error, least, most int64) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if n := o.allocated(t) - empty; n < least || n > most {
			t.Errorf("%s: %d bytes are allocated, not %d to %d", what, n, least, most)
		}
	}
	const some = 64 << 10 // what a file system may need for itself
	check("one byte is a block", o.WriteAt(ctx, []byte{1}, size/2), blockSize, blockSize+some)
	check("one byte where it was zeroed too", func() error {
		if err := o.WriteZeroes(ctx, 0, size, 0); err != nil {
			return err
		}
		return o.WriteAt(ctx, []byte{1}, size/2)
	}(), blockSize, blockSize+some)
	check("all", o.WriteAt(ctx, bytes.Repeat([]byte{1}, size), 0), size, size+some)
	check("half trimmed", o.Trim(ctx, 0, size/2), size/2, size/2+some)
	check("all zeroed", o.WriteZeroes(ctx, 1, size-1, 0), 0, some)
	uses(t, o, "all zeroed", 0)
}

func BenchmarkOverlay(b *testing.B) {
	o := open(b, content(b, 64<<20), Options{})
	b.Cleanup(func() { o.Close() })
	backendtest.Benchmark(b, o)
}
