package backendtest

import (
	"fmt"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// testZero zeroes ranges around every boundary and looks at their neighbours.
func (k Kind) testZero(t *testing.T) {
	for _, flags := range []backend.ZeroFlags{0, backend.MayTrim} {
		t.Run(fmt.Sprintf("flags=%v", flags), func(t *testing.T) {
			b := k.open(t, oddSize)
			size := b.Info().Size
			want := noise(3, int(size))
			write(t, b, want, 0)
			zero := func(off, length uint64) {
				t.Helper()
				length = min(length, size-off)
				writeZeroes(t, b, off, length, flags)
				clear(want[off : off+length])
				from, to := off-min(off, 5000), min(size, off+length+5000)
				expect(t, b, want[from:to], from)
			}
			zero(0, 1)
			zero(size-1, 1)
			for _, edge := range boundaries {
				zero(edge-1, 2)
				zero(edge+100, 50)
				zero(edge-7, 4096+11)
				zero(edge+512, edge-1024+1)
			}
			zero(size-4099, 4099)
			expect(t, b, want, 0)

			// Zeroes upon zeroes and upon what was never written, then data again.
			zero(1000, 300_000)
			zero(1000, 300_000)
			p := noise(4, 10_000)
			write(t, b, p, 70_001)
			copy(want[70_001:], p)
			expect(t, b, want, 0)
			zero(0, size)
			expect(t, b, want, 0)
			write(t, b, p, size-10_000)
			expect(t, b, p, size-10_000)
		})
	}
}

// testZeroLarge zeroes more than 64 MiB at once: a length at which backends
// begin to work in pieces, and at which some forgot all but the first.
func (k Kind) testZeroLarge(t *testing.T) {
	for _, flags := range []backend.ZeroFlags{0, backend.MayTrim} {
		t.Run(fmt.Sprintf("flags=%v", flags), func(t *testing.T) {
			b := k.open(t, largeSize)
			size := b.Info().Size
			const off = 1<<20 - 123
			p := noise(5, 1<<20)
			for at := uint64(0); at < size; at += 1 << 20 {
				write(t, b, p[:min(1<<20, size-at)], at)
			}
			writeZeroes(t, b, off, largeZero, flags)
			expect(t, b, p[:off], 0)
			expectZeroes(t, b, off, largeZero)
			end := uint64(off + largeZero)
			expect(t, b, p[end%(1<<20):], end)
		})
	}
}

// testTrim checks that a trimmed range reads as it did or as zeroes, stays that
// way, and can be written again; its neighbours keep their content.
func (k Kind) testTrim(t *testing.T) {
	b := k.open(t, oddSize)
	size := b.Info().Size
	want := noise(6, int(size))
	write(t, b, want, 0)
	cut := func(off, length uint64) {
		t.Helper()
		length = min(length, size-off)
		trim(t, b, off, length)
		adopt(t, want[off:off+length], read(t, b, int(length), off), off)
		from, to := off-min(off, 5000), min(size, off+length+5000)
		expect(t, b, want[from:to], from)
	}
	cut(0, 1)
	cut(size-1, 1)
	for _, edge := range boundaries {
		cut(edge-1, 2)
		cut(edge, edge)
		cut(edge+1, 4096)
		cut(edge-9, edge+17)
	}
	expect(t, b, want, 0)
	p := noise(8, 100_000)
	write(t, b, p, 30_001)
	copy(want[30_001:], p)
	expect(t, b, want, 0)
	cut(0, size)
	write(t, b, p, size-100_000)
	expect(t, b, p, size-100_000)
}

// adopt takes over what a trimmed range reads as: byte by byte its old content
// or zero.
func adopt(t *testing.T, want, got []byte, off uint64) {
	t.Helper()
	if isZero(got) {
		clear(want)
		return
	}
	for i, c := range got {
		if c != want[i] && c != 0 {
			t.Fatalf("the trimmed byte at %d reads as %#02x: neither %#02x as before nor zero", off+uint64(i), c, want[i])
		}
	}
	copy(want, got)
}

func mayTrim(yes bool) backend.ZeroFlags {
	if yes {
		return backend.MayTrim
	}
	return 0
}
