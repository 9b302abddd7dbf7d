package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// testFast checks that zeroing which has to be fast either zeroes, or says that
// it isn't fast and has changed nothing: not what was flushed, and not what was
// written since either. How long it takes is not looked at.
func (k Kind) testFast(t *testing.T) {
	for _, flags := range []backend.ZeroFlags{backend.Fast, backend.Fast | backend.MayTrim} {
		t.Run(fmt.Sprintf("flags=%v", flags), func(t *testing.T) {
			b := k.open(t, oddSize)
			if !b.Info().FastZero {
				return // nobody may ask for it
			}
			size := b.Info().Size
			want := noise(20, int(size))
			write(t, b, want, 0)
			if err := b.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			want = noise(24, int(size))
			write(t, b, want, 0)
			zero := func(off, length uint64) {
				t.Helper()
				length = min(length, size-off)
				err := b.WriteZeroes(t.Context(), off, length, flags)
				switch {
				case err == nil:
					clear(want[off : off+length])
				case !errors.Is(err, backend.ErrNotFast):
					t.Fatalf("WriteZeroes of %d bytes at %d, flags=%v: %v", length, off, flags, err)
				}
				from, to := off-min(off, 5000), min(size, off+length+5000)
				expect(t, b, want[from:to], from)
			}
			zero(0, 1)
			for _, edge := range boundaries {
				zero(edge-1, 2)
				zero(edge-7, 4096+11)
				zero(edge, edge)
				zero(edge+512, edge-1024+1)
			}
			zero(size-4099, 4099)
			zero(0, size)
			expect(t, b, want, 0)
		})
	}
}

// testCache checks that caching any range changes nothing, and that a range of
// any length may be asked for.
func (k Kind) testCache(t *testing.T) {
	b := k.open(t, oddSize)
	size := b.Info().Size
	want := noise(21, int(size))
	clear(want[300_000:500_000])
	write(t, b, want[:300_000], 0)
	write(t, b, want[500_000:], 500_000)
	cache(t, b, 0, 1)
	cache(t, b, size-1, 1)
	for _, edge := range boundaries {
		cache(t, b, edge-1, 2)
		cache(t, b, edge, min(edge, size-edge))
	}
	cache(t, b, 0, size)
	expect(t, b, want, 0)
	if k.size(huge) < hugeLeast {
		return
	}
	b = k.open(t, huge)
	size = b.Info().Size
	mark := bytes.Repeat([]byte{0x5a}, 4096)
	write(t, b, mark, size-4096)
	cache(t, b, 0, size)
	cache(t, b, 1<<32-1, size-1<<32)
	cache(t, b, size-1<<32, 1<<32)
	expect(t, b, mark, size-4096)
	expectZeroes(t, b, 1<<32-1, 4096)
}
