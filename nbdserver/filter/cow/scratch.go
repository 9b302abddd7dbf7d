package cow

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// fileSize is how much of the volume one file of the scratch stands for, in
// bytes: the largest file of an ext3 or ext4 with blocks of 1 KiB is just short
// of 4 TiB, with the usual 4 KiB just short of 16.
const fileSize = 2 << 40

// scratch are sparse files that have no name, so that they are gone with the
// process, kill -9 included. Each byte of the volume has its place: byte i is in
// file i/fileSize. What was never written there, or was punched out, takes no
// space.
type scratch []*os.File

// newScratch makes a scratch for a volume of size bytes in a directory.
func newScratch(dir string, size uint64) (scratch, error) {
	var s scratch
	for off := uint64(0); off < size; off += fileSize {
		f, err := nameless(dir)
		if err == nil {
			s = append(s, f)
			err = f.Truncate(int64(min(size-off, fileSize)))
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("scratch in %q: %w", dir, inner(err)), s.close())
		}
	}
	return s, nil
}

// nameless makes a file in a directory and leaves it no name there.
func nameless(dir string) (*os.File, error) {
	// Without O_EXCL a name could be given to it later.
	f, err := os.OpenFile(dir, unix.O_TMPFILE|unix.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) {
		return unlinked(dir)
	}
	return f, err
}

// unlinked is nameless for file systems that don't know O_TMPFILE, as NFS and
// older overlayfs. Its file has a name for a moment.
func unlinked(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "nbdserver-scratch-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// inner takes from an error of package os the path, which means nothing for a
// file without a name.
func inner(err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err
	}
	return err
}

// readAt reads a range that lies in one chunk.
func (s scratch) readAt(p []byte, off uint64) error {
	if _, err := s[off/fileSize].ReadAt(p, int64(off%fileSize)); err != nil {
		return fmt.Errorf("scratch: %w", inner(err))
	}
	return nil
}

// writeAt writes a range that lies in one chunk.
func (s scratch) writeAt(p []byte, off uint64) error {
	if _, err := s[off/fileSize].WriteAt(p, int64(off%fileSize)); err != nil {
		return fmt.Errorf("scratch: %w", inner(err))
	}
	return nil
}

// punch gives the space of a range that lies in one chunk back to the file
// system. A failure, for a file system that can't, isn't told: the content of the
// range means nothing any more, and the space is used again by the next write.
func (s scratch) punch(off, length uint64) {
	fd := int(s[off/fileSize].Fd())
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	for unix.Fallocate(fd, mode, int64(off%fileSize), int64(length)) == unix.EINTR {
	}
}

func (s scratch) close() error {
	var errs []error
	for _, f := range s {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
