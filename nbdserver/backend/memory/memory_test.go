package memory

import (
	"bytes"
	"math"
	"reflect"
	"sync"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/backend/backendtest"
)

func open(t testing.TB, size uint64) *Memory {
	t.Helper()
	m, err := New(size)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAcceptance(t *testing.T) {
	backendtest.Run(t, backendtest.Kind{
		Open: func(t *testing.T, size uint64) backend.Backend { return open(t, size) },
	})
}

func TestSizes(t *testing.T) {
	for _, size := range []uint64{0, 1, pageSize, pageSize + 1, 16 << 40, MaxSize} {
		if got := open(t, size).Info().Size; got != size {
			t.Errorf("a volume of %d bytes says that it has %d", size, got)
		}
	}
	for _, size := range []uint64{MaxSize + 1, math.MaxUint64} {
		if _, err := New(size); err == nil {
			t.Errorf("a volume of %d bytes was made", size)
		}
	}
}

// allocated counts the pages below a node, and the nodes.
func allocated(n *node) (pages, nodes int) {
	nodes = 1
	for i := range n.pages {
		if n.pages[i].Load() != nil {
			pages++
		}
	}
	for i := range n.children {
		if c := n.children[i].Load(); c != nil {
			p, k := allocated(c)
			pages, nodes = pages+p, nodes+k
		}
	}
	return pages, nodes
}

// TestAllocation follows how many pages a volume has through its operations.
func TestAllocation(t *testing.T) {
	ctx := t.Context()
	m := open(t, 16<<40+5)
	data := bytes.Repeat([]byte{1}, 3*pageSize)
	write := func(off uint64) func() error {
		return func() error { return m.WriteAt(ctx, data, off) }
	}
	zero := func(off, length uint64, flags backend.ZeroFlags) func() error {
		return func() error { return m.WriteZeroes(ctx, off, length, flags) }
	}
	for _, step := range []struct {
		what  string
		do    func() error
		pages int
	}{
		{"nothing", func() error { return nil }, 0},
		{"zeroes are written", func() error { return m.WriteAt(ctx, make([]byte, 5*pageSize+3), 7) }, 0},
		{"zeroing without trim", zero(0, 16<<40, 0), 0},
		{"three pages", write(8 * pageSize), 3},
		{"four pages at an odd offset", write(1<<40 + 1), 7},
		{"the end of the volume", write(16<<40 + 5 - 3*pageSize), 11},
		{"zeroing without trim keeps", zero(0, 16<<40+5, 0), 11},
		{"any trim frees a page that is zero", zero(8*pageSize+9, 1, backend.MayTrim), 10},
		{"all but a byte of two pages", func() error { return m.Trim(ctx, 9*pageSize+1, 2*pageSize-1) }, 8},
		{"the last page, a partial one", zero(16<<40, 5, backend.MayTrim), 7},
		{"data again", write(16<<40 + 5 - 3*pageSize), 7 + 1},
		{"all but the first byte", write(0), 11},
		{"trim from the second byte on", func() error { return m.Trim(ctx, 1, 16<<40+4) }, 1},
		{"trim of all", func() error { return m.Trim(ctx, 0, 16<<40+5) }, 0},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		if pages, _ := allocated(m.tree.root); pages != step.pages {
			t.Fatalf("%s: %d pages are allocated, not %d", step.what, pages, step.pages)
		}
	}
	if _, nodes := allocated(m.tree.root); nodes != 1 {
		t.Errorf("%d nodes are left after a trim of the whole volume", nodes)
	}
}

func TestExtents(t *testing.T) {
	ctx := t.Context()
	m := open(t, MaxSize)
	for _, off := range []uint64{pageSize + 5, 1 << 40, MaxSize - 1} {
		if err := m.WriteAt(ctx, []byte{1}, off); err != nil {
			t.Fatal(err)
		}
	}
	data := func(n uint64) backend.Extent { return backend.Extent{Length: n} }
	hole := func(n uint64) backend.Extent { return backend.Extent{Length: n, Hole: true, Zero: true} }
	for _, c := range []struct {
		off, length uint64
		max         int
		want        []backend.Extent
	}{
		{0, MaxSize, 100, []backend.Extent{
			hole(pageSize), data(pageSize), hole(1<<40 - 2*pageSize), data(pageSize),
			hole(1<<63 - 2*pageSize - 1<<40), data(pageSize - 1),
		}},
		{0, MaxSize, 1, []backend.Extent{hole(pageSize)}},
		{3 * pageSize, 1<<32 - 1, 9, []backend.Extent{hole(1<<32 - 1)}},
		{2*pageSize - 1, 2, 9, []backend.Extent{data(1), hole(1)}},
		{MaxSize - 1, 1, 9, []backend.Extent{data(1)}},
	} {
		got, err := m.Extents(ctx, c.off, c.length, c.max)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("Extents(%d, %d, %d) = %+v, %v; want %+v", c.off, c.length, c.max, got, err, c.want)
		}
	}
}

// TestFirstWrites lets goroutines make the same parts of the tree at the same
// time.
func TestFirstWrites(t *testing.T) {
	const writers = 8
	for range 300 {
		m := open(t, 1<<50)
		var group sync.WaitGroup
		start := make(chan struct{})
		for w := range uint64(writers) {
			group.Go(func() {
				<-start
				for off := w * pageSize; off < 1<<50; off += 1 << 48 {
					if err := m.WriteAt(t.Context(), []byte{byte(w + 1)}, off); err != nil {
						t.Error(err)
					}
				}
			})
		}
		close(start)
		group.Wait()
		if pages, _ := allocated(m.tree.root); pages != 4*writers {
			t.Fatalf("%d pages are there after %d were written", pages, 4*writers)
		}
	}
}

// FuzzModel runs streams of operations against a plain slice.
func FuzzModel(f *testing.F) {
	f.Fuzz(func(t *testing.T, ops []byte) {
		backendtest.Model(t, open(t, backendtest.ModelSize), ops)
	})
}

func BenchmarkMemory(b *testing.B) { backendtest.Benchmark(b, open(b, 64<<20)) }
