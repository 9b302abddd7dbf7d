package file

import (
	"context"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Resize implements backend.Resizer: it asks the file system, or the block
// device, for the size. It doesn't look at the context: on a network file
// system that doesn't answer it takes as long as that.
func (f *File) Resize(context.Context) (uint64, error) {
	f.resizing.Lock()
	defer f.resizing.Unlock()
	size, err := f.sizeNow(unix.AT_STATX_FORCE_SYNC)
	if err != nil {
		return 0, fmt.Errorf("size of %q: %w", f.path, err)
	}
	f.size.Store(size)
	return size, nil
}

// sizeNow asks for the size and nothing else. Whoever asks for the times of a
// file as well, as fstat(2) does, makes the next write slow: local file systems
// keep finer times from then on, and NFS sends everything to the server first.
func (f *File) sizeNow(sync int) (uint64, error) {
	if f.device {
		return deviceSize(f.fd)
	}
	var st unix.Statx_t
	for {
		// unix.Statx would allocate a byte for the empty path.
		_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(f.fd), uintptr(unsafe.Pointer(&noPath)),
			uintptr(unix.AT_EMPTY_PATH|sync), unix.STATX_SIZE, uintptr(unsafe.Pointer(&st)), 0)
		switch errno {
		case 0:
			return st.Size, nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// noPath is the empty string of C.
var noPath byte

// isThere refuses a change beyond the end that the file has at this moment,
// which may be before the end of the volume when somebody has cut the file
// short. The kernel would make the file larger again, and what was lost would
// read as zeroes instead of failing. A block device refuses by itself. What
// another machine did to a file on a network file system counts once the kernel
// has noticed.
//
// There is no write that can't make a file larger. So one that is under way in
// the very moment in which the file is cut may still do that, up to its own end.
func (f *File) isThere(off, length uint64) error {
	if f.device {
		return nil
	}
	size, err := f.sizeNow(unix.AT_STATX_DONT_SYNC)
	if err == nil && !fits(off, length, size) {
		err = unix.ENOSPC
	}
	return err
}
