package backendtest

import (
	"fmt"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// Benchmark measures reads and writes of 4 KiB and 256 KiB, one at a time and
// all over the volume, as sub-benchmarks of b. It writes the volume, which is
// at least 1 MiB large, in full before.
func Benchmark(b *testing.B, v backend.Backend) {
	ctx := b.Context()
	size := v.Info().Size
	p := noise(1, 1<<20)
	for off := uint64(0); off < size; off += 1 << 20 {
		if err := v.WriteAt(ctx, p[:min(1<<20, size-off)], off); err != nil {
			b.Fatal(err)
		}
	}
	for _, length := range []uint64{4 << 10, 256 << 10} {
		places := size / length
		for _, op := range []struct {
			name string
			do   func(p []byte, off uint64) error
		}{
			{"Read", func(p []byte, off uint64) error { return v.ReadAt(ctx, p, off) }},
			{"Write", func(p []byte, off uint64) error { return v.WriteAt(ctx, p, off) }},
		} {
			b.Run(fmt.Sprintf("%s/%dk", op.name, length>>10), func(b *testing.B) {
				b.SetBytes(int64(length))
				b.ReportAllocs()
				// The stride is a prime number: every place is visited, in an
				// order that no read-ahead guesses.
				place := uint64(0)
				for b.Loop() {
					place = (place + 7919) % places
					if err := op.do(p[:length], place*length); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
