package backendtest

import (
	"context"
	"errors"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// testFlush checks that a volume can be flushed at any time.
func (k Kind) testFlush(t *testing.T) {
	b := k.open(t, oddSize)
	for i := range 3 {
		if err := b.Flush(t.Context()); err != nil {
			t.Fatalf("Flush: %v", err)
		}
		p := noise(15, 10_000)
		write(t, b, p, uint64(i)*10_000)
		if err := b.Flush(t.Context()); err != nil {
			t.Fatalf("Flush after a write: %v", err)
		}
		expect(t, b, p, uint64(i)*10_000)
	}
}

// testCanceled checks that an operation with a canceled context either takes
// effect or says that it was canceled, and does no harm beyond its range.
func (k Kind) testCanceled(t *testing.T) {
	b := k.open(t, oddSize)
	size := b.Info().Size
	want := noise(16, int(size))
	write(t, b, want, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	const off, n = 5001, 100_000
	done := func(what string, err error) bool {
		t.Helper()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a canceled context: %v", what, err)
		}
		return err == nil
	}
	p := noise(17, n)
	if done("WriteAt", b.WriteAt(ctx, p, off)) {
		expect(t, b, p, off)
	}
	if done("WriteZeroes", b.WriteZeroes(ctx, off, n, 0)) {
		expectZeroes(t, b, off, n)
	}
	if done("WriteZeroes with mayTrim", b.WriteZeroes(ctx, off, n, backend.MayTrim)) {
		expectZeroes(t, b, off, n)
	}
	done("Trim", b.Trim(ctx, off, n))
	done("Flush", b.Flush(ctx))
	done("Cache", b.Cache(ctx, off, n))
	_, err := b.Extents(ctx, 0, size, 10)
	done("Extents", err)
	got := make([]byte, off)
	if done("ReadAt", b.ReadAt(ctx, got, 0)) {
		expect(t, b, got, 0)
	}
	expect(t, b, want[:off], 0)
	expect(t, b, want[off+n:], off+n)
	write(t, b, p, off)
	expect(t, b, p, off)
}

// testReopen checks that content outlives the Backend.
func (k Kind) testReopen(t *testing.T) {
	b := k.Open(t, k.size(oddSize))
	info := b.Info()
	want := noise(18, int(info.Size))
	write(t, b, want, 0)
	writeZeroes(t, b, 100_001, 200_000, backend.MayTrim)
	clear(want[100_001:300_001])
	writeZeroes(t, b, 400_001, 200_000, 0)
	clear(want[400_001:600_001])
	if err := b.Flush(t.Context()); err != nil {
		t.Fatalf("Flush: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	b = k.Reopen(t, b)
	t.Cleanup(func() { b.Close() })
	if again := b.Info(); again != info {
		t.Errorf("Info changed from %+v to %+v", info, again)
	}
	expect(t, b, want, 0)
	write(t, b, want[:1000], 150_000)
	expect(t, b, want[:1000], 150_000)
}

// testReadOnly checks that a volume that was opened read-only reads as it
// should and can't be changed.
func (k Kind) testReadOnly(t *testing.T) {
	want := noise(19, int(k.size(oddSize)))
	clear(want[300_000:500_000])
	b := k.ReadOnly(t, want)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	if info := b.Info(); !info.ReadOnly || info.Size != uint64(len(want)) {
		t.Fatalf("Info is %+v for a read-only volume of %d bytes", info, len(want))
	}
	ctx := t.Context()
	for what, err := range map[string]error{
		"WriteAt":                  b.WriteAt(ctx, []byte("x"), 0),
		"Trim":                     b.Trim(ctx, 0, 4096),
		"WriteZeroes":              b.WriteZeroes(ctx, 1, 4096, 0),
		"WriteZeroes with mayTrim": b.WriteZeroes(ctx, 0, 8192, backend.MayTrim),
	} {
		if !errors.Is(err, backend.ErrReadOnly) {
			t.Errorf("%s to a read-only volume: %v", what, err)
		}
	}
	if err := b.Flush(ctx); err != nil {
		t.Errorf("Flush of a read-only volume: %v", err)
	}
	cache(t, b, 0, uint64(len(want)))
	expect(t, b, want, 0)
	for _, edge := range boundaries {
		expect(t, b, want[edge-3:edge+4], edge-3)
	}
	walk(t, b, 0, uint64(len(want)), 3)
	checkExtents(t, b, want, 0, uint64(len(want)), 100)
}
