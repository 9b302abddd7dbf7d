package file

import (
	"context"

	"golang.org/x/sys/unix"
)

const (
	// cacheMost is how much of a range Cache asks for, in bytes: as much as the
	// largest read. A request may name the whole volume, and a hint must
	// neither take long nor push everything else out of the page cache.
	cacheMost = 32 << 20
	// cachePiece is how much one call asks for: the kernel cuts it down to the
	// device's read-ahead, 128 KiB by default, and doesn't say so.
	cachePiece = 128 << 10
)

// Cache implements backend.Backend by posix_fadvise(2): the kernel begins to
// read what isn't in the page cache, and doesn't wait for it. Only the first
// 32 MiB of a range are asked for.
func (f *File) Cache(ctx context.Context, off, length uint64) error {
	err := inPieces(ctx, off, off+min(length, cacheMost), cachePiece, func(off, length uint64) error {
		return retry(func() error {
			return unix.Fadvise(f.fd, int64(off), int64(length), unix.FADV_WILLNEED)
		})
	})
	switch {
	case isUnsupported(err), isRefused(err):
		return nil // a hint that can't be given
	case err != nil && err != ctx.Err():
		return f.fail("caching", off, length, err)
	}
	return err
}
