package backendtest

import (
	"bytes"
	"errors"
	"sync"
	"syscall"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// resized asks the volume for its size, which must be the given one.
func resized(t *testing.T, b backend.Backend, size uint64) {
	t.Helper()
	got, err := b.(backend.Resizer).Resize(t.Context())
	if err != nil || got != size {
		t.Fatalf("Resize found %d bytes (%v), not %d", got, err, size)
	}
	if i := b.Info(); i.Size != size {
		t.Fatalf("Info has a size of %d bytes, and Resize found %d", i.Size, size)
	}
}

// testResize makes a volume larger, smaller and larger again.
func (k Kind) testResize(t *testing.T) {
	const most = 2 << 20
	b := k.open(t, most/2)
	want := noise(22, most)
	clear(want[most/2:])
	write(t, b, want[:most/2], 0)
	resized(t, b, most/2)

	k.Resize(t, b, most)
	resized(t, b, most)
	expect(t, b, want, 0)
	write(t, b, noise(23, most/4), most*3/8) // across the old end
	copy(want[most*3/8:], noise(23, most/4))
	writeZeroes(t, b, most-5000, 5000, 0)
	write(t, b, []byte{1}, most-1)
	want[most-1] = 1
	trim(t, b, most-4096-1, 1)
	expect(t, b, want, 0)
	checkExtents(t, b, want, 0, most, 100)

	const least = most / 4
	k.Resize(t, b, least)
	beyond(t, b, least)
	resized(t, b, least)
	beyond(t, b, least)
	resized(t, b, least) // none of that has made it larger again
	expect(t, b, want[:least], 0)

	k.Resize(t, b, most/2)
	resized(t, b, most/2)
	expect(t, b, want[:least], 0)
	write(t, b, want[:most/2], 0)
	expect(t, b, want[:most/2], 0)
}

// beyond checks that nothing can be done beyond the end of a volume that was
// larger, by a client who doesn't know that.
func beyond(t *testing.T, b backend.Backend, end uint64) {
	t.Helper()
	ctx := t.Context()
	p := bytes.Repeat([]byte{0x5a}, 8192)
	for _, off := range []uint64{end - 4096, end, end + 4096} {
		if err := b.ReadAt(ctx, p, off); !errors.Is(err, backend.ErrShrunk) {
			t.Errorf("ReadAt at %d, where the volume ends at %d now: %v", off, end, err)
		}
	}
	// Those that reach across the end would leave part of themselves behind.
	for _, off := range []uint64{end, end + 4096} {
		for what, err := range map[string]error{
			"WriteAt":                  b.WriteAt(ctx, p, off),
			"WriteZeroes":              b.WriteZeroes(ctx, off, 8192, 0),
			"WriteZeroes with mayTrim": b.WriteZeroes(ctx, off, 8192, backend.MayTrim),
		} {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s at %d, where the volume ends at %d now: %v", what, off, end, err)
			}
		}
		if err := b.Trim(ctx, off, 8192); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Trim at %d, where the volume ends at %d now: %v", off, end, err)
		}
		if _, err := b.Extents(ctx, off, 8192, 10); err != nil {
			t.Errorf("Extents at %d, where the volume ends at %d now: %v", off, end, err)
		}
		cache(t, b, off, 8192)
	}
}

// testResizeInUse changes the size under clients who use what stays.
func (k Kind) testResizeInUse(t *testing.T) {
	const least, most = 1 << 20, 2 << 20
	b := k.open(t, most)
	var group sync.WaitGroup
	stop := make(chan struct{})
	for w := range uint64(workers) {
		group.Go(func() {
			const length = least / workers
			for seed := w; ; seed += workers {
				err := b.WriteZeroes(t.Context(), w*length, length, 0)
				if err == nil {
					err = workAlone(t, b, w*length, length, seed)
				}
				if err != nil {
					t.Error(err)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	defer group.Wait()
	defer close(stop)
	for range 10 {
		for _, size := range []uint64{least, most} {
			k.Resize(t, b, size)
			resized(t, b, size)
		}
	}
}
