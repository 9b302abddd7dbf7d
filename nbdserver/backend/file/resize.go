package file

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// Resize implements backend.Resizer: it asks the file system, or the block
// device, for the size. It doesn't look at the context: on a network file
// system that doesn't answer it takes as long as that.
func (f *File) Resize(context.Context) (uint64, error) {
	f.resizing.Lock()
	defer f.resizing.Unlock()
	size, err := f.sizeNow()
	if err != nil {
		return 0, fmt.Errorf("size of %q: %w", f.path, err)
	}
	f.size.Store(size)
	return size, nil
}

func (f *File) sizeNow() (uint64, error) {
	if f.device {
		return deviceSize(f.fd)
	}
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstat(f.fd, &st) })
	return uint64(st.Size), err
}

// isThere refuses a change beyond the end that the file has at this moment,
// which may be before the end of the volume when somebody has cut the file
// short. The kernel would make the file larger again, and what was lost would
// read as zeroes instead of failing. A block device refuses by itself.
//
// There is no write that can't make a file larger. So one that is under way in
// the very moment in which the file is cut may still do that, up to its own end.
func (f *File) isThere(off, length uint64) error {
	if f.device {
		return nil
	}
	size, err := f.sizeNow()
	if err == nil && !fits(off, length, size) {
		err = unix.ENOSPC
	}
	return err
}
