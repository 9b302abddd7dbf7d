// Package memory keeps a volume in the memory of the process. What was never
// written takes no memory, so a volume may be far larger than the machine: a
// scratch disk, or the writable layer over a read-only one. Its content is gone
// when it is closed.
package memory

import (
	"context"
	"fmt"
	"math"
	"sync"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// MaxSize is the largest size of a volume in bytes: 2^63-1, the largest offset
// that every client can express.
const MaxSize = math.MaxInt64

// pageSize is the unit of allocation in bytes. A small page wastes less under
// scattered writes, a large one takes less time to find; 32 KiB is the largest
// size that Go allocates from its per-thread caches.
const pageSize = 32 << 10

// stripes is how many locks the pages share.
const stripes = 128

// Memory is a volume in memory: a backend.Backend. Concurrent operations are
// safe, whatever their ranges. It takes memory for each page of 32 KiB that
// holds a byte other than zero; there is no limit but the machine's, or the
// container's, and reaching it ends the process.
type Memory struct {
	size uint64
	tree tree
	// locks guard the content of pages: page i belongs to lock i modulo
	// stripes. They also order what makes and frees single pages.
	locks [stripes]struct {
		sync.RWMutex
		// Locks that are taken by different CPUs lie in different cache lines.
		_ [40]byte
	}
}

var _ backend.Backend = (*Memory)(nil)

// New makes a volume of size bytes, from 0 to MaxSize, that reads as zeroes.
func New(size uint64) (*Memory, error) {
	if size > MaxSize {
		return nil, fmt.Errorf("memory volume: a size of %d bytes is more than the largest possible, %d", size, uint64(MaxSize))
	}
	return &Memory{size: size, tree: newTree((size + pageSize - 1) / pageSize)}, nil
}

// Info implements backend.Backend.
func (m *Memory) Info() backend.Info {
	return backend.Info{Size: m.size, PreferredBlockSize: 4096, FastZero: true}
}

// Flush implements backend.Backend. There is nothing to do: memory is as stable
// as this storage gets.
func (m *Memory) Flush(context.Context) error { return nil }

// Close implements backend.Backend. It drops the content.
func (m *Memory) Close() error {
	m.tree = tree{}
	return nil
}
