package cow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// run is states.run for the range of an operation. It ends with the chunk.
func (o *Overlay) run(off, length uint64) (st state, n uint64) {
	block := off / blockSize
	end := min(blocks(off+length), (block/chunkBlocks+1)*chunkBlocks)
	st, next := o.states.run(block, end)
	return st, min(next*blockSize-off, length)
}

// ReadAt implements backend.Backend. What the base fails with is passed on as it
// is.
func (o *Overlay) ReadAt(ctx context.Context, p []byte, off uint64) error {
	for len(p) > 0 {
		st, n := o.run(off, uint64(len(p)))
		part := p[:n]
		switch st {
		case zeroed:
			clear(part)
		case inBase:
			if err := o.base.ReadAt(ctx, part, off); err != nil {
				return err
			}
		case inScratch:
			if err := o.scratch.readAt(part, off); err != nil {
				return fmt.Errorf("read of %d bytes at %d: %w", n, off, err)
			}
		}
		p, off = p[n:], off+n
	}
	return nil
}

// WriteAt implements backend.Backend. When it fails, what it has changed are
// whole blocks of 64 KiB from the beginning on, unless the disk failed while one
// that was in the scratch before was written anew.
func (o *Overlay) WriteAt(ctx context.Context, p []byte, off uint64) error {
	for len(p) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := o.writeSome(ctx, p, off)
		if errors.Is(err, unix.ENOSPC) {
			o.refused.Add(1)
		}
		if err != nil {
			return fmt.Errorf("write of %d bytes at %d: %w", len(p), off, err)
		}
		p, off = p[n:], off+n
	}
	return nil
}

// writeSome writes as much of p as goes to the scratch in one piece.
func (o *Overlay) writeSome(ctx context.Context, p []byte, off uint64) (n uint64, err error) {
	lock := &o.chunks[off/chunkSize%uint64(len(o.chunks))]
	lock.RLock()
	defer lock.RUnlock()
	st, n := o.run(off, uint64(len(p)))
	if st == inScratch {
		return n, o.scratch.writeAt(p[:n], off)
	}
	n = min(uint64(len(p)), blockSize-off%blockSize)
	return n, o.fill(ctx, p[:n], off)
}

var buffers = sync.Pool{New: func() any { return new([blockSize]byte) }}

// fill writes to a part of a block that isn't in the scratch, by making it there.
// It is written in full, also where it is zero: the space that it will ever need
// is taken now, so that a later write to it can't fail for want of space.
func (o *Overlay) fill(ctx context.Context, p []byte, off uint64) error {
	block, at := off/blockSize, off%blockSize
	lock := &o.blocks[block%uint64(len(o.blocks))]
	lock.Lock()
	defer lock.Unlock()
	st, _ := o.states.look(block)
	if st == inScratch { // by now
		return o.scratch.writeAt(p, off)
	}
	start := block * blockSize
	if n := min(blockSize, o.info.Size-start); uint64(len(p)) < n {
		buf := buffers.Get().(*[blockSize]byte)
		defer buffers.Put(buf)
		data := buf[:n]
		if st == zeroed {
			clear(data)
		} else if err := o.base.ReadAt(ctx, data, start); err != nil {
			return err
		}
		part := data[at : at+uint64(len(p))]
		if bytes.Equal(part, p) {
			return nil // as is often so where zeroes are written
		}
		copy(part, p)
		p = data
	}
	if err := o.take(); err != nil {
		return err
	}
	if err := o.scratch.writeAt(p, start); err != nil {
		o.scratch.punch(start, blockSize) // what was written before it failed
		o.give(1)
		return err
	}
	o.states.fill(block)
	return nil
}

// zeroes are what is written to parts of blocks. A range that has no whole block
// in it is shorter.
var zeroes [2 * blockSize]byte

// WriteZeroes implements backend.Backend. Whole blocks give their space back,
// without MayTrim too: a scratch is thin, and a client that zeroes a large volume
// needn't fill it. All of it is fast: at each end, a part of a block at most is
// written.
func (o *Overlay) WriteZeroes(ctx context.Context, off, length uint64, _ backend.ZeroFlags) error {
	end := off + length
	first, last := o.whole(off, end)
	if first >= last {
		return o.WriteAt(ctx, zeroes[:length], off)
	}
	// The space that is given back may be needed for the ends.
	err := o.zero(ctx, first, last)
	if err == nil {
		err = o.WriteAt(ctx, zeroes[:first*blockSize-off], off)
	}
	if stop := last * blockSize; err == nil && stop < end {
		err = o.WriteAt(ctx, zeroes[:end-stop], stop)
	}
	return err
}

// Trim implements backend.Backend. Whole blocks are zero afterwards and give
// their space back; parts of blocks keep their content.
func (o *Overlay) Trim(ctx context.Context, off, length uint64) error {
	first, last := o.whole(off, off+length)
	return o.zero(ctx, first, last)
}

// whole returns the blocks that lie in a range: from first to before last. The
// last block of the volume may be a short one.
func (o *Overlay) whole(off, end uint64) (first, last uint64) {
	first, last = blocks(off), end/blockSize
	if end == o.info.Size {
		last = blocks(end)
	}
	return first, last
}

// zero drops the blocks from first to before last.
func (o *Overlay) zero(ctx context.Context, first, last uint64) error {
	for first < last {
		if err := ctx.Err(); err != nil {
			return err
		}
		end := min(last, (first/chunkBlocks+1)*chunkBlocks)
		o.zeroChunk(first, end)
		first = end
	}
	return nil
}

// zeroChunk drops blocks of one chunk.
func (o *Overlay) zeroChunk(first, end uint64) {
	lock := &o.chunks[first/chunkBlocks%uint64(len(o.chunks))]
	lock.Lock()
	defer lock.Unlock()
	if dropped := o.states.zero(first, end); dropped > 0 {
		o.scratch.punch(first*blockSize, (end-first)*blockSize)
		o.give(dropped)
	}
}
