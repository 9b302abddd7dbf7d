package cow

import (
	"bytes"
	"context"
	"errors"
	"os"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/backend/memory"
)

// slow is a base that lets everybody else run between a look at it and the answer.
type slow struct{ backend.Backend }

func (s slow) ReadAt(ctx context.Context, p []byte, off uint64) error {
	err := s.Backend.ReadAt(ctx, p, off)
	for range 20 {
		runtime.Gosched()
	}
	return err
}

// TestNeighbours writes parts of the same blocks at the same time, and reads them.
// No byte of the others, nor of the base between them, may be lost, not even for a
// moment.
func TestNeighbours(t *testing.T) {
	const size, piece, step = 4*blockSize + 1000, 500, 600
	before := read(t, content(t, size), size, 0)
	want := bytes.Clone(before)
	for off := 0; off+piece <= size; off += step {
		copy(want[off:], bytes.Repeat([]byte{byte(off / step)}, piece))
	}
	for range 20 {
		o := openBase(t, slow{content(t, size)}, Options{})
		var group, readers sync.WaitGroup
		var written atomic.Bool
		readers.Go(func() {
			for got := make([]byte, size); !written.Load(); {
				if err := o.ReadAt(t.Context(), got, 0); err != nil {
					t.Error(err)
				}
				for i := range got {
					if got[i] != before[i] && got[i] != want[i] {
						t.Errorf("the byte at %d is %#02x: neither %#02x as before nor %#02x as written", i, got[i], before[i], want[i])
						return
					}
				}
			}
		})
		const workers = 8
		for w := range workers {
			group.Go(func() {
				for off := w * step; off+piece <= size; off += workers * step {
					if err := o.WriteAt(t.Context(), want[off:off+piece], uint64(off)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		written.Store(true)
		readers.Wait()
		if !bytes.Equal(read(t, o, size, 0), want) {
			t.Fatal("a byte was lost")
		}
		uses(t, o, "all blocks are written", 5)
	}
}

// TestLimit follows what the scratch holds up to its limit, and back.
func TestLimit(t *testing.T) {
	const size, limit = 10*blockSize + 100, 3*blockSize + 1000
	ctx := t.Context()
	base := content(t, size)
	o := openBase(t, base, Options{Limit: limit})
	want := read(t, base, size, 0)
	put := func(what string, n, off int, err error, held uint64) {
		t.Helper()
		p := noise(byte(off+n), n)
		if got := o.WriteAt(ctx, p, uint64(off)); !errors.Is(got, err) {
			t.Fatalf("%s: %v, want %v", what, got, err)
		} else if got == nil {
			copy(want[off:], p)
		}
		if !bytes.Equal(read(t, o, size, 0), want) {
			t.Fatalf("%s: it doesn't read as it should", what)
		}
		uses(t, o, what, held)
	}
	zero := func(what string, n, off int, held uint64) {
		t.Helper()
		if err := o.WriteZeroes(ctx, uint64(off), uint64(n), backend.MayTrim); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		clear(want[off : off+n])
		if !bytes.Equal(read(t, o, size, 0), want) {
			t.Fatalf("%s: it doesn't read as it should", what)
		}
		uses(t, o, what, held)
	}
	if used, got := o.Scratch(); used != 0 || got != limit {
		t.Errorf("a new scratch holds %d bytes of %d", used, got)
	}
	put("a byte", 1, 5, nil, 1)
	put("two blocks in part", 100, 2*blockSize-50, nil, 3)
	put("one more byte", 1, 5*blockSize+7, unix.ENOSPC, 3)
	put("one more block", blockSize, 5*blockSize, unix.ENOSPC, 3)
	put("the short block at the end", 100, 10*blockSize, unix.ENOSPC, 3)
	put("what is there can be written", 3*blockSize, 0, nil, 3)
	zero("a part of what is there can be zeroed", 100, 50, 3)
	zero("what isn't there can be zeroed", blockSize, 7*blockSize, 3)
	zero("a part of what was zeroed too", 100, 7*blockSize+5, 3)
	zero("zeroing gives the space back first", blockSize+10, blockSize-10, 2)
	put("there is room again", 10, 6*blockSize, nil, 3)
	zero("space for its ends comes from the middle", blockSize+20, 6*blockSize-10, 3)
	if err := o.Trim(ctx, 0, size); err != nil {
		t.Fatal(err)
	}
	clear(want)
	put("after a trim", 2*blockSize+1, blockSize, nil, 3)
	// A write that goes too far keeps the blocks that it has come to.
	p := noise(9, 2*blockSize)
	if err := o.WriteAt(ctx, p, 3*blockSize); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("a write beyond the limit: %v", err)
	}
	copy(want[3*blockSize:], p[:blockSize])
	if !bytes.Equal(read(t, o, size, 0), want) {
		t.Error("after a write that ran out of space it doesn't read as it should")
	}
	uses(t, o, "a write beyond the limit", 3)
}

// TestLimitIsShared lets many come for the last blocks.
func TestLimitIsShared(t *testing.T) {
	const limit = 20
	o := openBase(t, content(t, 100*blockSize), Options{Limit: limit * blockSize})
	var group sync.WaitGroup
	for w := range uint64(10) {
		group.Go(func() {
			for b := w; b < 100; b += 10 {
				if err := o.WriteAt(t.Context(), []byte{1, 2}, b*blockSize); err != nil && !errors.Is(err, unix.ENOSPC) {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	uses(t, o, "all blocks were asked for", limit)
}

// TestZeroingInUse zeroes all of a volume under its writers, and counts what is
// left.
func TestZeroingInUse(t *testing.T) {
	const n = 2*chunkBlocks + 10 // blocks
	o := openBase(t, content(t, n*blockSize), Options{})
	var group sync.WaitGroup
	for w := range uint64(4) {
		group.Go(func() {
			p := bytes.Repeat([]byte{byte(w + 1)}, blockSize)
			got := make([]byte, blockSize)
			for i := range uint64(300) {
				off := (i*8 + w) % n * blockSize
				if i%50 == 49 {
					if err := o.Trim(t.Context(), 0, n*blockSize); err != nil {
						t.Error(err)
					}
				}
				if err := o.WriteAt(t.Context(), p[:blockSize-i], off); err != nil {
					t.Error(err)
				}
				if err := o.ReadAt(t.Context(), got, off); err != nil {
					t.Error(err)
				}
				part := got[:blockSize-i] // somebody may zero it meanwhile
				if bytes.Count(part, p[:1])+bytes.Count(part, []byte{0}) != len(part) {
					t.Errorf("block %d holds what nobody wrote", off/blockSize)
					return
				}
			}
		})
	}
	group.Wait()
	used, _ := o.Scratch()
	uses(t, o, "after all", used/blockSize)
}

// broken is a base of which a range can't be read.
type broken struct {
	backend.Backend
	from, to uint64
}

func (b broken) ReadAt(ctx context.Context, p []byte, off uint64) error {
	if off < b.to && off+uint64(len(p)) > b.from {
		return unix.EIO
	}
	return b.Backend.ReadAt(ctx, p, off)
}

// TestBrokenBase: what the base can't read fails, until it is written in full.
func TestBrokenBase(t *testing.T) {
	ctx := t.Context()
	base := content(t, 10*blockSize)
	o := openBase(t, broken{base, 2*blockSize + 10, 4 * blockSize}, Options{})
	p := make([]byte, 3*blockSize)
	if err := o.ReadAt(ctx, p, blockSize); !errors.Is(err, unix.EIO) {
		t.Errorf("a read of what is broken: %v", err)
	}
	if err := o.WriteAt(ctx, []byte{1}, 2*blockSize); !errors.Is(err, unix.EIO) {
		t.Errorf("a write to a part of what is broken: %v", err)
	}
	uses(t, o, "a failed write", 0)
	if got := read(t, o, 10, 2*blockSize); !bytes.Equal(got, read(t, base, 10, 2*blockSize)) {
		t.Error("a failed write has written")
	}
	write(t, o, noise(3, blockSize), 2*blockSize)
	if err := o.WriteZeroes(ctx, 3*blockSize, blockSize, 0); err != nil {
		t.Fatal(err)
	}
	want := append(append(read(t, base, blockSize, blockSize), noise(3, blockSize)...), zeroes[:blockSize]...)
	if got := read(t, o, 3*blockSize, blockSize); !bytes.Equal(got, want) {
		t.Error("what was broken doesn't read as it was written")
	}
}

// TestShrunkBase: what is gone fails, and what was written stays.
func TestShrunkBase(t *testing.T) {
	ctx := t.Context()
	path := image(t, 10*blockSize)
	o := openBase(t, openFile(t, path), Options{})
	write(t, o, noise(4, 2*blockSize), 7*blockSize)
	if err := os.Truncate(path, 5*blockSize); err != nil {
		t.Fatal(err)
	}
	if err := o.ReadAt(ctx, make([]byte, 2*blockSize), 4*blockSize); !errors.Is(err, backend.ErrShrunk) {
		t.Errorf("a read of what is gone: %v", err)
	}
	if err := o.WriteAt(ctx, []byte{1}, 9*blockSize); !errors.Is(err, backend.ErrShrunk) {
		t.Errorf("a write to a part of what is gone: %v", err)
	}
	if got := read(t, o, 2*blockSize, 7*blockSize); !bytes.Equal(got, noise(4, 2*blockSize)) {
		t.Error("what was written is lost")
	}
	if got, err := o.Extents(ctx, 6*blockSize, blockSize, 5); err != nil || !reflect.DeepEqual(got, []backend.Extent{{Length: blockSize}}) {
		t.Errorf("what is gone has the extents %+v (%v): it must be read, and fail", got, err)
	}
}

// TestCanceled: a context that ends while the base is read ends the write.
func TestCanceled(t *testing.T) {
	o := openBase(t, content(t, 10*chunkSize), Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for what, err := range map[string]error{
		"WriteAt":     o.WriteAt(ctx, []byte{1}, 0),
		"WriteZeroes": o.WriteZeroes(ctx, 0, chunkSize, 0),
		"Trim":        o.Trim(ctx, 0, chunkSize),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := o.Extents(ctx, 0, chunkSize, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("Extents: %v", err)
	}
	uses(t, o, "nothing has happened", 0)
}

// TestExtents shows the three states as one map.
func TestExtents(t *testing.T) {
	const size = 2*chunkSize + 5*blockSize + 100
	ctx := t.Context()
	m, err := memory.New(size)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []uint64{1, 2, 3, 4, 5} { // data of the base
		if err := m.WriteAt(ctx, noise(5, blockSize), b*blockSize); err != nil {
			t.Fatal(err)
		}
	}
	o := openBase(t, frozen{m, t}, Options{})
	data := func(n uint64) backend.Extent { return backend.Extent{Length: n} }
	hole := func(n uint64) backend.Extent { return backend.Extent{Length: n, Hole: true, Zero: true} }
	check := func(off, length uint64, max int, want ...backend.Extent) {
		t.Helper()
		got, err := o.Extents(ctx, off, length, max)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Extents(%d, %d, %d) = %+v, %v; want %+v", off, length, max, got, err, want)
		}
	}
	check(0, size, 10, hole(blockSize), data(5*blockSize), hole(size-6*blockSize))
	write(t, o, noise(6, 10), 2*blockSize+5)                // over data
	write(t, o, noise(6, 10), 8*blockSize+5)                // over a hole
	write(t, o, noise(6, 10), size-10)                      // the short block at the end
	write(t, o, noise(6, 10), chunkSize-5)                  // across chunks
	err = o.WriteZeroes(ctx, 3*blockSize+5, 2*blockSize, 0) // a block, and parts of two
	if err != nil {
		t.Fatal(err)
	}
	check(0, size, 10,
		hole(blockSize), data(3*blockSize), hole(blockSize), data(blockSize), hole(2*blockSize), data(blockSize),
		hole(chunkSize-10*blockSize), data(2*blockSize), hole(chunkSize+4*blockSize), data(100))
	check(0, size, 3, hole(blockSize), data(3*blockSize), hole(blockSize))
	check(2*blockSize+7, 10, 3, data(10))
	check(blockSize-1, 2, 1, hole(1))
	if err := o.Trim(ctx, 0, size); err != nil {
		t.Fatal(err)
	}
	check(0, size, 10, hole(size))
}

// TestExtentsAreBounded: where the state changes with each block, one call does
// only so much, and more calls come to the end.
func TestExtentsAreBounded(t *testing.T) {
	const size = 3 * maxSteps * blockSize
	o := openBase(t, content(t, size), Options{})
	for b := uint64(0); b < size/blockSize; b += 2 {
		o.states.fill(b) // as good as written
	}
	calls := 0
	for off := uint64(0); off < size; calls++ {
		list, err := o.Extents(t.Context(), off, size-off, 1<<20)
		if err != nil || len(list) == 0 || len(list) > maxSteps {
			t.Fatalf("%d extents, %v", len(list), err)
		}
		for _, e := range list {
			off += e.Length
		}
	}
	if calls != 3 {
		t.Errorf("it took %d calls", calls)
	}
}
