package backendtest

import (
	"bytes"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// boundaries are where backends change from one of their pieces to the next:
// sectors, memory pages, the blocks and clusters of file and image formats.
var boundaries = []uint64{512, 4096, 32 << 10, 64 << 10, 128 << 10, 1 << 20}

// oddSize is a size that isn't a multiple of any boundary, and holds them all.
const oddSize = 1<<20 + 64<<10 + 777

func (k Kind) testInfo(t *testing.T) {
	for _, size := range []uint64{1, 511, 512, 4095, 4096, 4097, 64 << 10, 64<<10 + 1, oddSize} {
		b := k.open(t, size)
		info := b.Info()
		if info.Size != k.size(size) {
			t.Errorf("Size is %d instead of %d", info.Size, k.size(size))
		}
		if info.ReadOnly {
			t.Error("a writable volume says that it is read-only")
		}
		if p := info.PreferredBlockSize; p < 512 || p > 32<<20 || p&(p-1) != 0 {
			t.Errorf("PreferredBlockSize is %d: not a power of two from 512 to 32 MiB", p)
		}
		if m := info.MinimumBlockSize; m > 64<<10 || m&(m-1) != 0 {
			t.Errorf("MinimumBlockSize is %d: not 0 or a power of two up to 64 KiB", m)
		}
		last := []byte{0x5a}
		write(t, b, last, info.Size-1)
		expect(t, b, last, info.Size-1)
		if again := b.Info(); again != info {
			t.Errorf("Info changed from %+v to %+v", info, again)
		}
	}
}

func (k Kind) testNew(t *testing.T) {
	b := k.open(t, oddSize)
	expectZeroes(t, b, 0, b.Info().Size)
}

// testEdges writes short and long pieces around every boundary of a volume and
// compares the whole of it after each.
func (k Kind) testEdges(t *testing.T) {
	b := k.open(t, oddSize)
	size := b.Info().Size
	want := make([]byte, size)
	seed := uint64(0)
	put := func(off, length uint64) {
		t.Helper()
		seed++
		length = min(length, size-off)
		p := noise(seed, int(length))
		write(t, b, p, off)
		copy(want[off:], p)
		expect(t, b, p, off)
		from, to := off-min(off, 5000), min(size, off+length+5000)
		expect(t, b, want[from:to], from)
	}
	put(0, 1)
	put(size-1, 1)
	for _, edge := range boundaries {
		put(edge-1, 1)
		put(edge, 1)
		put(edge-1, 2)
		put(edge-3, 7)
		put(edge, edge)
		put(edge+1, edge-2)
		put(edge/2, edge)
	}
	put(size-4097, 4097)
	put(1, size-2)
	put(0, size)
	expect(t, b, want, 0)
}

// testBuffers checks that a backend writes only what it was given to fill, and
// that what it was given to write belongs to the caller again.
func (k Kind) testBuffers(t *testing.T) {
	b := k.open(t, oddSize)
	const off, n = 4000, 70_000
	p := noise(1, n)
	want := bytes.Clone(p)
	write(t, b, p, off)
	if !bytes.Equal(p, want) {
		t.Error("WriteAt changed the buffer")
	}
	clear(p)
	expect(t, b, want, off)

	buf := bytes.Repeat([]byte{0xa5}, n+32)
	if err := b.ReadAt(t.Context(), buf[16:16+n], off); err != nil {
		t.Fatal(err)
	}
	guard := bytes.Repeat([]byte{0xa5}, 16)
	if !bytes.Equal(buf[:16], guard) || !bytes.Equal(buf[16+n:], guard) {
		t.Error("ReadAt wrote outside the buffer")
	}
	clear(buf)
	expect(t, b, want, off)
}

// testHuge uses places of a sparse volume that are far apart, and ranges
// whose lengths don't fit into 32 bits.
func (k Kind) testHuge(t *testing.T) {
	b := k.open(t, huge)
	size := b.Info().Size
	mark := noise(7, 8192)
	marks := []uint64{0, 1<<31 - 4096, 1<<32 - 4096, 1<<33 + 1, size / 2, size - 8192}
	put := func() {
		for _, off := range marks {
			write(t, b, mark, off)
		}
	}
	put()
	for _, off := range marks {
		expect(t, b, mark, off)
	}
	expectZeroes(t, b, 1<<20, 1<<20)
	walk(t, b, 0, size, 1<<16)
	walk(t, b, 0, 1<<32-1, 1)
	walk(t, b, 4097, 1<<32-1, 3)
	walk(t, b, 1<<31-1, 1<<32, 1<<16)
	walk(t, b, 1<<32-4096, size-1<<32, 2)

	// The range ends one byte before a mark, then in the middle of one.
	writeZeroes(t, b, 8192, 1<<32-1-8192-4096, backend.MayTrim)
	expect(t, b, mark, 0)
	expectZeroes(t, b, 1<<31-4096, 8192)
	expect(t, b, mark, 1<<32-4096)
	writeZeroes(t, b, 4096, 1<<32-1, backend.MayTrim)
	expect(t, b, mark[:4096], 0)
	expectZeroes(t, b, 4096, 8192)
	expectZeroes(t, b, 1<<32-4096, 8191)
	expect(t, b, mark[8191:], 1<<32+4095)
	expect(t, b, mark, 1<<33+1)

	put()
	trim(t, b, 8192, size-2*8192)
	expect(t, b, mark, 0)
	expect(t, b, mark, size-8192)
	put()
	writeZeroes(t, b, 1, size-2, backend.MayTrim)
	expect(t, b, mark[:1], 0)
	expect(t, b, mark[8191:], size-1)
	for _, off := range marks[1:5] {
		expectZeroes(t, b, off, 8192)
	}
	walk(t, b, 0, size, 1<<16)
}
