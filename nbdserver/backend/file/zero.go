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
		_, _, err = f.try(ctx, &f.punch, start, end)
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
// it writes zeroes, or with Fast returns ErrNotFast. The ends of a range on a
// block device that are less than a page are always written, as that is fast.
func (f *File) WriteZeroes(ctx context.Context, off, length uint64, flags backend.ZeroFlags) error {
	if err := f.mayChange("zeroing", off, length); err != nil {
		return err
	}
	end := off + length
	start, stop := f.aligned(off, end)
	// The middle comes first: it may turn out not to be fast.
	err := f.zero(ctx, start, stop, flags)
	if err == nil {
		err = f.writeOut(ctx, off, start)
	}
	if err == nil {
		err = f.writeOut(ctx, stop, end)
	}
	if err != nil && err != ctx.Err() && err != backend.ErrNotFast {
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
func (f *File) zero(ctx context.Context, start, end uint64, flags backend.ZeroFlags) error {
	if start == end {
		return nil
	}
	begun := false
	for _, m := range f.methods(flags) {
		done, some, err := f.try(ctx, m, start, end)
		if done || err != nil {
			return err
		}
		begun = begun || some
	}
	// What has begun must be brought to an end, fast or not: ErrNotFast says
	// that nothing has changed.
	if flags&backend.Fast != 0 && !begun {
		return backend.ErrNotFast
	}
	return f.writeOut(ctx, start, end)
}

// methods are the ways to zero a range, the best first.
//
// Fast are those that need no time for each page, or fail. That excludes
// reserve, which takes two calls of which the second may not be known, and is
// slow on tmpfs. On a block device it excludes ZERO_RANGE, which turns to
// writing when it has to; and PUNCH_HOLE, unless the device is known for it,
// because it drops the range from the page cache before it finds out: what was
// written since the last flush would be lost with an error that says that
// nothing has changed. There is nothing left then without MayTrim, as for qemu.
func (f *File) methods(flags backend.ZeroFlags) []*method {
	mayTrim := flags&backend.MayTrim != 0
	switch fast := flags&backend.Fast != 0; {
	case fast && f.device && mayTrim && f.punchKnown:
		return []*method{&f.punch}
	case fast && f.device:
		return nil
	case mayTrim:
		return []*method{&f.punch, &f.zeroRange}
	case fast:
		return []*method{&f.zeroRange}
	}
	return []*method{&f.zeroRange, &f.reserve}
}

// try zeroes a range by a method. It isn't done, and there is no error, if that
// can't be done in this way; begun says that the range may have changed then.
func (f *File) try(ctx context.Context, m *method, start, end uint64) (done, begun bool, err error) {
	if m.unsupported.Load() {
		return false, false, nil
	}
	err = inPieces(ctx, start, end, callSize, func(off, length uint64) error {
		if err := f.isThere(off, length); err != nil {
			return err
		}
		for _, mode := range m.modes {
			err := retry(func() error { return unix.Fallocate(f.fd, mode, int64(off), int64(length)) })
			begun = begun || err == nil || f.device
			if err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case isUnsupported(err):
		m.unsupported.Store(true)
		return false, begun, nil
	case isRefused(err):
		return false, begun, nil
	}
	return err == nil, begun, err
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
