// Package cow is a filter that makes a volume writable without changing it
// (copy on write): what is written goes to a scratch on disk, which is dropped at
// the end, and what never was is read from the volume below, the base.
package cow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// blockSize is the unit in bytes in which the scratch takes the place of the
// base: the first write to a part of a block copies the rest of it. It is 64 KiB
// as in nbdkit's filter cow and in qcow2. Smaller blocks need more memory to keep
// their states, 4 MiB for each TiB that is written or zeroed; larger ones need
// more time and more of the scratch for the small writes of a virtual machine.
const blockSize = 64 << 10

// MaxSize is the largest size of a volume in bytes: 1 PiB. Its scratch has 512
// files.
const MaxSize = 1 << 50

// Options say where the scratch is and how much it may hold.
type Options struct {
	// Dir is the directory of the scratch; if it is empty, the one that the
	// environment variable TMPDIR names, or else /var/tmp: /tmp is often in memory.
	Dir string
	// Limit in bytes is how much the scratch may hold, in whole blocks of
	// 64 KiB: 64 KiB at least, or 0 for as much as there is room for.
	Limit uint64
}

// Overlay is a volume that keeps its changes in a scratch: a backend.Backend.
// Concurrent operations are safe, whatever their ranges. All its changes are gone
// when it is closed or the process ends, in whatever way.
type Overlay struct {
	base    backend.Backend
	info    backend.Info
	scratch scratch
	states  states
	limit   uint64        // in bytes, 0 for none
	used    atomic.Uint64 // bytes of the blocks in the scratch
	refused atomic.Uint64 // writes that found no room there

	// chunks guard the blocks in the scratch from being zeroed: whoever writes
	// to one, or makes one, holds the lock of its chunk for reading. Chunk i
	// belongs to lock i modulo their number. Who reads needs no lock: a block
	// keeps its place in the scratch, and is there in full before its state says
	// so. So a read finds what was there at some time while it ran.
	chunks [64]struct {
		sync.RWMutex
		_ [40]byte // locks lie in different cache lines
	}
	// blocks let one at a time make a block in the scratch. Their holders hold
	// the lock of the chunk too.
	blocks [128]struct {
		sync.Mutex
		_ [56]byte
	}
}

var (
	_ backend.Backend = (*Overlay)(nil)
	_ backend.Scratch = (*Overlay)(nil)
)

// Open makes a volume that reads as the base does. The base is only ever read,
// and must not change: what it has at the moment of a read is what is read. Its
// size is taken over as it is now. The Overlay closes it in the end; if Open
// fails the base is left to the caller.
func Open(base backend.Backend, opt Options) (*Overlay, error) {
	o := &Overlay{base: base, info: base.Info(), limit: opt.Limit}
	if opt.Limit != 0 && opt.Limit < blockSize {
		return nil, fmt.Errorf("a scratch of %d bytes is too small to be of use: allow it %d bytes or more", opt.Limit, blockSize)
	}
	if o.info.Size > MaxSize {
		return nil, fmt.Errorf("copy-on-write: a volume of %d bytes is more than the largest possible, %d", o.info.Size, uint64(MaxSize))
	}
	o.info.ReadOnly = false
	o.info.FastZero = true
	o.info.PreferredBlockSize = max(o.info.PreferredBlockSize, blockSize)
	o.states = newStates(blocks(o.info.Size))
	var err error
	if o.scratch, err = newScratch(opt.dir(), o.info.Size); err != nil {
		return nil, err
	}
	return o, nil
}

func (opt Options) dir() string {
	switch env := os.Getenv("TMPDIR"); {
	case opt.Dir != "":
		return opt.Dir
	case env != "":
		return env
	}
	return "/var/tmp"
}

// blocks is how many blocks it takes to hold a number of bytes.
func blocks(n uint64) uint64 { return (n + blockSize - 1) / blockSize }

// Info implements backend.Backend.
func (o *Overlay) Info() backend.Info { return o.info }

// Scratch implements backend.Scratch. Blocks count in full, the last one of the
// volume too.
func (o *Overlay) Scratch() (used, limit uint64) { return o.used.Load(), o.limit }

// ScratchRefused implements backend.Scratch.
func (o *Overlay) ScratchRefused() uint64 { return o.refused.Load() }

// Flush implements backend.Backend. There is nothing to do: the changes outlive
// every client but not the process, and what the process needs survives in the
// page cache. It would only make the client wait for a disk that nobody will ever
// read from again.
func (o *Overlay) Flush(context.Context) error { return nil }

// Cache implements backend.Backend: the base is told. The scratch isn't: most of
// what was written lately is in memory.
func (o *Overlay) Cache(ctx context.Context, off, length uint64) error {
	return o.base.Cache(ctx, off, length)
}

// Close implements backend.Backend. It drops the scratch and closes the base.
func (o *Overlay) Close() error { return errors.Join(o.scratch.close(), o.base.Close()) }

// take takes one block of what the scratch may hold.
func (o *Overlay) take() error {
	for {
		used := o.used.Load()
		if o.limit != 0 && used+blockSize > o.limit {
			return fmt.Errorf("the scratch holds %d bytes of the %d that it may: allow it more, or trim the volume: %w", used, o.limit, unix.ENOSPC)
		}
		if o.used.CompareAndSwap(used, used+blockSize) {
			return nil
		}
	}
}

// give gives blocks back.
func (o *Overlay) give(blocks uint64) { o.used.Add(-blocks * blockSize) }
