package backendtest

import (
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// testExtents checks the answers of Extents over a volume of data, zeroes and
// holes, from many places and with many limits.
func (k Kind) testExtents(t *testing.T) {
	b := k.open(t, oddSize)
	size := b.Info().Size
	walk(t, b, 0, size, 100)
	write(t, b, noise(9, 10), 5)
	write(t, b, noise(10, 100_000), 200_000)
	write(t, b, noise(11, 1), 600_000)
	write(t, b, noise(12, 5000), size-5000)
	writeZeroes(t, b, 240_000, 30_000, backend.MayTrim)
	writeZeroes(t, b, 400_000, 70_000, 0)
	trim(t, b, 205_000, 9000)
	for _, limit := range []int{1, 2, 3, 5, 1 << 20} {
		for _, off := range []uint64{0, 1, 4, 5, 4095, 4096, 32767, 65536, 199_999, 240_001, size - 5001, size - 1} {
			walk(t, b, off, size-off, limit)
			walk(t, b, off, 1, limit)
			walk(t, b, off, min(70_000, size-off), limit)
		}
	}
	write(t, b, noise(13, int(size)), 0)
	walk(t, b, 0, size, 100)
	writeZeroes(t, b, 0, size, backend.MayTrim)
	walk(t, b, 0, size, 100)
}

// walk asks for the extents of a range until it is covered, checks every answer
// and that what is said to be zero reads as zero: the beginning and the end of
// it where it is long.
func walk(t *testing.T, b backend.Backend, off, length uint64, limit int) {
	t.Helper()
	const sample = 128 << 10
	for calls := 0; length > 0; calls++ {
		if calls == 20_000 {
			t.Fatalf("Extents is still %d bytes short of the end after %d calls", length, calls)
		}
		for _, e := range extents(t, b, off, length, limit) {
			if e.Zero && e.Length <= 2*sample {
				expectZeroes(t, b, off, e.Length)
			} else if e.Zero {
				expectZeroes(t, b, off, sample)
				expectZeroes(t, b, off+e.Length-sample, sample)
			}
			off, length = off+e.Length, length-e.Length
		}
	}
}

// extents calls Extents once and checks the form of its answer.
func extents(t *testing.T, b backend.Backend, off, length uint64, limit int) []backend.Extent {
	t.Helper()
	list, err := b.Extents(t.Context(), off, length, limit)
	if err != nil {
		t.Fatalf("Extents of %d bytes at %d: %v", length, off, err)
	}
	if len(list) == 0 || len(list) > limit {
		t.Fatalf("Extents of %d bytes at %d: %d extents, not 1 to %d", length, off, len(list), limit)
	}
	left := length
	for _, e := range list {
		if e.Length == 0 || e.Length > left {
			t.Fatalf("Extents of %d bytes at %d: an extent of %d bytes where %d are left: %+v", length, off, e.Length, left, list)
		}
		left -= e.Length
	}
	return list
}
