// Package file exports a raw disk image in a regular file, or a block device.
// It uses what Linux offers for them: holes, fallocate(2), discard.
package file

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// File is an open volume: a backend.Backend. Its methods but Close may be
// called at the same time, whatever their ranges.
type File struct {
	// file owns the descriptor; fd is what every operation uses, as the
	// operations of os.File know neither fallocate nor why a read fell short.
	file *os.File
	fd   int
	path string
	info backend.Info // but for the size
	// size in bytes is what Resize found last; resizing orders its calls.
	size     atomic.Uint64
	resizing sync.Mutex
	// device says that it is a block device.
	device bool
	// punchKnown says that a block device is known to zero by PUNCH_HOLE, so
	// that it needn't be tried to be found out; see methods.
	punchKnown bool
	// align is what the kernel wants the ranges of fallocate and discard to be
	// a multiple of, in bytes: a power of two, and 1 for a regular file.
	align uint64

	// What the file system or the device turned out not to know.
	punch, zeroRange, reserve method
	noDiscard                 atomic.Bool
	noSeekHole                atomic.Bool
}

var (
	_ backend.Backend = (*File)(nil)
	_ backend.Resizer = (*File)(nil)
)

// Info implements backend.Backend.
func (f *File) Info() backend.Info {
	i := f.info
	i.Size = f.size.Load()
	return i
}

// Flush implements backend.Backend by fdatasync(2). It doesn't look at the
// context: a flush that ended early would count as failed, and end the writing
// to the volume.
func (f *File) Flush(context.Context) error {
	if f.info.ReadOnly {
		return nil
	}
	if err := retry(func() error { return unix.Fdatasync(f.fd) }); err != nil {
		return fmt.Errorf("flush of %q: %w", f.path, err)
	}
	return nil
}

// Close implements backend.Backend.
func (f *File) Close() error { return f.file.Close() }

// retry repeats a system call that a signal interrupted: the Go runtime sends
// signals to its own threads.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// fail says which operation failed, and where.
func (f *File) fail(op string, off, length uint64, err error) error {
	return fmt.Errorf("%s of %d bytes at %d of %q: %w", op, length, off, f.path, err)
}

// mayChange refuses a change to a read-only volume, and one that would make
// the volume larger.
func (f *File) mayChange(op string, off, length uint64) error {
	if f.info.ReadOnly {
		return f.fail(op, off, length, backend.ErrReadOnly)
	}
	if !fits(off, length, f.size.Load()) {
		return f.fail(op, off, length, unix.ENOSPC)
	}
	return nil
}

// fits tells whether a range lies within a size. The sum may wrap.
func fits(off, length, size uint64) bool { return off <= size && length <= size-off }
