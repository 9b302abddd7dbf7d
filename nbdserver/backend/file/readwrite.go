package file

import (
	"context"
	"io"

	"golang.org/x/sys/unix"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// ReadAt implements backend.Backend. It doesn't look at the context: a read
// from a file can't be interrupted.
func (f *File) ReadAt(_ context.Context, p []byte, off uint64) error {
	for done := 0; done < len(p); {
		n, err := unix.Pread(f.fd, p[done:], int64(off)+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return f.fail("read", off, uint64(len(p)), err)
		case n == 0:
			return f.fail("read", off, uint64(len(p)), backend.ErrShrunk)
		default:
			done += n
		}
	}
	return nil
}

// WriteAt implements backend.Backend. It doesn't look at the context: a write
// to a file can't be interrupted.
func (f *File) WriteAt(_ context.Context, p []byte, off uint64) error {
	if err := f.mayChange("write", off, uint64(len(p))); err != nil {
		return err
	}
	if err := f.writeAll(p, off); err != nil {
		return f.fail("write", off, uint64(len(p)), err)
	}
	return nil
}

// writeAll writes all of p, and never beyond the end that the file has now.
func (f *File) writeAll(p []byte, off uint64) error {
	for done := 0; done < len(p); {
		if err := f.isThere(off+uint64(done), uint64(len(p)-done)); err != nil {
			return err
		}
		n, err := unix.Pwrite(f.fd, p[done:], int64(off)+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return io.ErrShortWrite
		default:
			done += n
		}
	}
	return nil
}
