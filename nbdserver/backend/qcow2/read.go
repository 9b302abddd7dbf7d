package qcow2

import (
	"context"
	"fmt"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// ReadAt implements backend.Backend.
func (i *Image) ReadAt(ctx context.Context, p []byte, off uint64) error {
	var failed error
	err := i.walk(ctx, off, uint64(len(p)), 0, func(q piece) bool {
		if failed = i.readPiece(ctx, p[q.off-off:][:q.length], q); failed != nil {
			failed = fmt.Errorf("read of %d bytes at %d: %w", q.length, q.off, failed)
		}
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return err
}

func (i *Image) readPiece(ctx context.Context, p []byte, q piece) error {
	switch q.kind {
	case compressed:
		b, err := i.inflate(ctx, q)
		if err != nil {
			return err
		}
		copy(p, b[q.off&i.inCluster():])
		return nil
	case plain:
		// The last cluster of a file need not be there in full: as for qemu, what
		// was never written is zeroes. That the piece begins in the file is known.
		n := min(uint64(len(p)), i.fileSize-min(q.host, i.fileSize))
		clear(p[n:])
		if n == 0 {
			return nil
		}
		return i.file.ReadAt(ctx, p[:n], q.host)
	}
	clear(p)
	return nil
}

// maxChunks is how many chunks of tables one call of Extents reads, which bounds
// its time: those of 32 GiB with clusters of 64 KiB, all in use.
const maxChunks = 1024

// Extents implements backend.Backend from the tables of the image. Compressed
// clusters are data, also if they are full of zeroes.
func (i *Image) Extents(ctx context.Context, off, length uint64, most int) ([]backend.Extent, error) {
	var list []backend.Extent
	err := i.walk(ctx, off, length, maxChunks, func(q piece) bool {
		e := backend.Extent{Length: q.length, Hole: q.kind == unallocated, Zero: q.kind == unallocated || q.kind == zeroed}
		if n := len(list); n > 0 && list[n-1].Hole == e.Hole && list[n-1].Zero == e.Zero {
			list[n-1].Length += e.Length
			return true
		}
		if len(list) == most {
			return false
		}
		list = append(list, e)
		return true
	})
	if err != nil && len(list) == 0 {
		return nil, err
	}
	return list, nil
}
