package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// workers is how many goroutines use a volume at the same time.
const workers = 8

// testDisjoint lets goroutines work on neighbouring ranges whose borders lie
// inside sectors and pages, while others flush and ask for extents.
func (k Kind) testDisjoint(t *testing.T) {
	const length = 50_001
	b := k.open(t, workers*length)
	var group sync.WaitGroup
	for w := range uint64(workers) {
		group.Go(func() {
			if err := workAlone(t, b, w*length, length, w); err != nil {
				t.Error(err)
			}
		})
	}
	group.Go(func() {
		for range 20 {
			if err := b.Flush(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := b.Extents(t.Context(), 0, b.Info().Size, 10); err != nil {
				t.Error(err)
			}
		}
	})
	group.Wait()
}

// workAlone changes a range that nobody else touches, and checks that it reads
// as it was left.
func workAlone(t *testing.T, b backend.Backend, start, length, seed uint64) error {
	ctx := t.Context()
	rng := rand.New(rand.NewPCG(seed, 0))
	want := make([]byte, length)
	got := make([]byte, length)
	for step := range uint64(60) {
		off := rng.Uint64N(length)
		n := 1 + rng.Uint64N(length-off)
		part := want[off : off+n]
		var err error
		switch rng.IntN(5) {
		case 0, 1:
			copy(part, noise(seed<<32|step, int(n)))
			err = b.WriteAt(ctx, part, start+off)
		case 2:
			clear(part)
			err = b.WriteZeroes(ctx, start+off, n, backend.MayTrim)
		case 3:
			clear(part)
			err = b.WriteZeroes(ctx, start+off, n, 0)
		case 4:
			if err = b.Trim(ctx, start+off, n); err == nil {
				err = b.ReadAt(ctx, part, start+off)
			}
		}
		if err != nil {
			return err
		}
		if err := b.ReadAt(ctx, got, start); err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("the range of %d bytes at %d doesn't read as its one writer left it", length, start)
		}
	}
	return nil
}

// testInterleaved lets goroutines change small pieces between those of others,
// many to a sector and a page. A backend that reads and writes back more than
// it was asked to change loses some of them.
func (k Kind) testInterleaved(t *testing.T) {
	const length, pieces = 97, 80
	b := k.open(t, workers*length*pieces)
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			ctx := t.Context()
			got := make([]byte, length)
			for round := range 16 {
				want := bytes.Repeat([]byte{byte(1 + round*workers + w)}, length)
				if round%4 > 1 {
					clear(want)
				}
				for i := range pieces {
					off := uint64(i*workers+w) * length
					var err error
					if round%4 > 1 {
						err = b.WriteZeroes(ctx, off, length, mayTrim(round%4 == 2))
					} else {
						err = b.WriteAt(ctx, want, off)
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
				for i := range pieces {
					off := uint64(i*workers+w) * length
					if err := b.ReadAt(ctx, got, off); err != nil {
						t.Error(err)
						return
					}
					if !bytes.Equal(got, want) {
						t.Errorf("the %d bytes at %d don't read as their one writer left them", length, off)
						return
					}
				}
			}
		})
	}
	group.Wait()
}

// testOverlapping lets goroutines write to the same range: each byte must then
// be one of those that were written.
func (k Kind) testOverlapping(t *testing.T) {
	const length = 150_000
	b := k.open(t, length)
	length64 := uint64(length)
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			ctx := t.Context()
			p := bytes.Repeat([]byte{byte(w + 1)}, length)
			off := uint64(w * 1000)
			n := length64 - off
			got := make([]byte, n)
			for range 8 {
				err := errors.Join(
					b.WriteAt(ctx, p[off:], off),
					b.WriteZeroes(ctx, off, n/2, mayTrim(w%2 == 0)),
					b.Trim(ctx, n/2, n/2),
					b.ReadAt(ctx, got, off))
				if _, e := b.Extents(ctx, off, n, 100); e != nil || err != nil {
					t.Error(errors.Join(err, e))
					return
				}
				for i, c := range got {
					if c > workers {
						t.Errorf("the byte at %d reads as %#02x, which nobody wrote", off+uint64(i), c)
						return
					}
				}
			}
		})
	}
	group.Wait()
	p := noise(14, length)
	write(t, b, p, 0)
	expect(t, b, p, 0)
}
