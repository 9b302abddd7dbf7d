package file

import (
	"context"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// callSize is the most that one call asks the kernel to zero or discard, in
// bytes. A device that has to write the zeroes is done with it in a second, and
// then the context is looked at.
const callSize = 256 << 20

// zeroes is what is written where the kernel can't zero by itself. It is never
// written to, so that it takes no memory.
var zeroes [1 << 20]byte

// method is a way to zero a range by calls of fallocate(2), one after another.
//
// The calls are the same for block devices, where they go through
// blkdev_issue_zeroout like the ioctl BLKZEROOUT: PUNCH_HOLE unmaps and gives
// up if the device would have to write, ZERO_RANGE keeps the space and writes
// if need be. Both drop the range from the page cache first, so that reads and
// writes through it stay coherent.
type method struct {
	modes []uint32
	// unsupported is set when the kernel said that it doesn't know the calls,
	// so that it isn't asked for every request.
	unsupported atomic.Bool
}

// Trim implements backend.Backend: it punches a hole, or discards. Where that
// isn't possible it does nothing and returns nil.
func (f *File) Trim(ctx context.Context, off, length uint64) error {
	if err := f.mayChange("trim", off, length); err != nil {
		return err
	}
	var err error
	if start, end := f.aligned(off, off+length); f.device {
		err = f.discard(ctx, start, end)
	} else {
		_, err = f.try(ctx, &f.punch, start, end)
	}
	if err != nil && err != ctx.Err() {
		return f.fail("trim", off, length, err)
	}
	return err
}

// discard discards a range of a block device.
func (f *File) discard(ctx context.Context, start, end uint64) error {
	if f.noDiscard.Load() {
		return nil
	}
	return inPieces(ctx, start, end, callSize, func(off, length uint64) error {
		err := discard(f.fd, off, length)
		if isUnsupported(err) {
			f.noDiscard.Store(true)
			return nil
		}
		if isRefused(err) {
			return nil
		}
		return err
	})
}

// WriteZeroes implements backend.Backend. With MayTrim it punches a hole;
// without it the range becomes allocated where the file system knows
// FALLOC_FL_ZERO_RANGE, or can punch a hole and fill it (NFS 4.2, tmpfs). Else
// it writes zeroes. The ends of a range on a block device that are less than a
// page are always written.
func (f *File) WriteZeroes(ctx context.Context, off, length uint64, flags backend.ZeroFlags) error {
	mayTrim := flags&backend.MayTrim != 0
	if err := f.mayChange("zeroing", off, length); err != nil {
		return err
	}
	end := off + length
	start, stop := f.aligned(off, end)
	err := f.writeOut(ctx, off, start)
	if err == nil {
		err = f.zero(ctx, start, stop, mayTrim)
	}
	if err == nil {
		err = f.writeOut(ctx, stop, end)
	}
	if err != nil && err != ctx.Err() {
		return f.fail("zeroing", off, length, err)
	}
	return err
}

// aligned returns the aligned part of a range. If there is none, its start and
// end are both the end of the range.
func (f *File) aligned(off, end uint64) (start, stop uint64) {
	mask := f.align - 1
	start, stop = (off+mask)&^mask, end&^mask
	if start >= stop {
		return end, end
	}
	return start, stop
}

// writeOut zeroes a range by writing zeroes.
func (f *File) writeOut(ctx context.Context, start, end uint64) error {
	return inPieces(ctx, start, end, uint64(len(zeroes)), func(off, length uint64) error {
		return f.writeAll(zeroes[:length], off)
	})
}

// zero zeroes an aligned range in the best way there is.
func (f *File) zero(ctx context.Context, start, end uint64, mayTrim bool) error {
	methods := []*method{&f.zeroRange, &f.reserve}
	if mayTrim {
		methods = []*method{&f.punch, &f.zeroRange}
	}
	for _, m := range methods {
		if done, err := f.try(ctx, m, start, end); done || err != nil {
			return err
		}
	}
	return f.writeOut(ctx, start, end)
}

// try zeroes a range by a method. It returns false and no error if that can't
// be done in this way.
func (f *File) try(ctx context.Context, m *method, start, end uint64) (done bool, err error) {
	if m.unsupported.Load() {
		return false, nil
	}
	err = inPieces(ctx, start, end, callSize, func(off, length uint64) error {
		for _, mode := range m.modes {
			err := retry(func() error { return unix.Fallocate(f.fd, mode, int64(off), int64(length)) })
			if err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case isUnsupported(err):
		m.unsupported.Store(true)
		return false, nil
	case isRefused(err):
		return false, nil
	}
	return err == nil, err
}

// isUnsupported tells whether an error says that the kernel, the file system or
// the device doesn't know an operation at all.
func isUnsupported(err error) bool {
	return err == unix.EOPNOTSUPP || err == unix.ENOSYS || err == unix.ENOTTY || err == unix.ENODEV
}

// isRefused tells whether an error says that an operation isn't possible now or
// for this range, where a write may be: EINVAL comes from file systems that
// want whole blocks, EBUSY from old kernels when the page cache was dirtied
// meanwhile, EPERM from seccomp profiles and sealed files.
func isRefused(err error) bool {
	return err == unix.EINVAL || err == unix.EBUSY || err == unix.EPERM
}

// inPieces does something with a range in pieces of at most size bytes, until
// it fails or the context is canceled.
func inPieces(ctx context.Context, off, end, size uint64, do func(off, length uint64) error) error {
	for off < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(end-off, size)
		if err := do(off, n); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// Cache implements backend.Backend.
func (f *File) Cache(context.Context, uint64, uint64) error { return nil }
