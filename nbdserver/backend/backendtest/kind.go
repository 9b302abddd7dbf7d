// Package backendtest is the acceptance suite of package backend: what every
// kind of Backend must do, whatever it is made of. A kind is tested by one call
// of Run in its own package, next to the tests of what only that kind does.
package backendtest

import (
	"math"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// Kind describes a kind of Backend to the suite. At least one of Open and
// ReadOnly is set; tests that need a field which isn't set are left out.
type Kind struct {
	// Open makes a new, writable volume of size bytes that reads as zeroes.
	// What it needs besides the Backend is released by t.Cleanup; the suite
	// closes the Backend before.
	Open func(t *testing.T, size uint64) backend.Backend
	// Reopen opens once more, writable, the volume of a Backend that Open made
	// and the suite has closed. It is nil for a kind that keeps nothing.
	Reopen func(t *testing.T, closed backend.Backend) backend.Backend
	// ReadOnly makes a volume with the content given and opens it read-only.
	// It is nil for a kind that can't be opened so.
	ReadOnly func(t *testing.T, content []byte) backend.Backend
	// Resize gives what is below a volume that Open made another size in
	// bytes, without a word to the Backend; what is new reads as zeroes. It is
	// nil for a kind that is no backend.Resizer.
	Resize func(t *testing.T, b backend.Backend, size uint64)
	// SizeStep is what sizes are a multiple of, in bytes; 0 means 1. The suite
	// rounds its sizes up to it. It is at most 4096.
	SizeStep uint64
	// MaxSize is the largest size in bytes that Open is called with; 0 means
	// no limit. With 70 MiB or more it is tested that large ranges are zeroed,
	// with 32 GiB or more that a sparse volume works, up to 16 TiB: only a few
	// kilobytes of it are written, and terabytes trimmed.
	MaxSize uint64
}

// Run runs the suite as subtests of t. It takes a few seconds under the race
// detector and, of the storage, some 100 MiB.
func Run(t *testing.T, k Kind) {
	t.Helper()
	if k.Open == nil && k.ReadOnly == nil {
		t.Fatal("backendtest: the kind has neither Open nor ReadOnly")
	}
	if k.Open != nil {
		t.Run("Info", k.testInfo)
		t.Run("NewReadsAsZeroes", k.testNew)
		t.Run("Edges", k.testEdges)
		t.Run("Buffers", k.testBuffers)
		t.Run("Zero", k.testZero)
		t.Run("Fast", k.testFast)
		t.Run("Cache", k.testCache)
		t.Run("Trim", k.testTrim)
		t.Run("Extents", k.testExtents)
		t.Run("Disjoint", k.testDisjoint)
		t.Run("Interleaved", k.testInterleaved)
		t.Run("Overlapping", k.testOverlapping)
		t.Run("Model", k.testModel)
		t.Run("Canceled", k.testCanceled)
		t.Run("Flush", k.testFlush)
		if k.size(largeSize) >= largeSize {
			t.Run("ZeroLarge", k.testZeroLarge)
		}
		if k.size(huge) >= hugeLeast {
			t.Run("Huge", k.testHuge)
		}
	}
	if k.Resize != nil {
		t.Run("Resize", k.testResize)
		t.Run("ResizeInUse", k.testResizeInUse)
	}
	if k.Reopen != nil {
		t.Run("Reopen", k.testReopen)
	}
	if k.ReadOnly != nil {
		t.Run("ReadOnly", k.testReadOnly)
	}
}

const (
	// huge is the size of the largest volume of the suite: 16 TiB, and a bit
	// so that its end is nowhere near a round number.
	huge = 16<<40 + 12345
	// hugeLeast is the smallest size that testHuge works with.
	hugeLeast = 32 << 30
	// largeZero is how much testZeroLarge zeroes at once, and largeSize the
	// size of the volume.
	largeZero = 66<<20 + 4321
	largeSize = 70 << 20
)

// size fits a size to what the kind can do.
func (k Kind) size(n uint64) uint64 {
	step := max(k.SizeStep, 1)
	limit := k.MaxSize
	if limit == 0 {
		limit = math.MaxInt64
	}
	return min((n+step-1)/step*step, limit/step*step)
}

// open makes a volume of about size bytes and closes it with the test.
func (k Kind) open(t *testing.T, size uint64) backend.Backend {
	t.Helper()
	b := k.Open(t, k.size(size))
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}
