package file

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// Extents implements backend.Backend by lseek(2) with SEEK_DATA and SEEK_HOLE.
// A hole reads as zeroes; it may be space that is reserved but was never
// written, which the kernel doesn't tell apart. A block device, and a file
// system that knows no holes, is all data.
func (f *File) Extents(ctx context.Context, off, length uint64, max int) ([]backend.Extent, error) {
	if f.device || f.noSeekHole.Load() {
		return []backend.Extent{{Length: length}}, nil
	}
	var list []backend.Extent
	for end := off + length; off < end && len(list) < max; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e, err := f.extent(off, end)
		if err == unix.EINVAL || isUnsupported(err) {
			f.noSeekHole.Store(true)
			e, err = backend.Extent{Length: end - off}, nil
		}
		if err != nil {
			return nil, f.fail("lookup of extents", off, end-off, err)
		}
		list = append(list, e)
		off += e.Length
	}
	return list, nil
}

// extent finds the extent that begins at off, in at most three system calls.
// The file may change meanwhile; whatever doesn't fit together is data, which
// is never wrong.
func (f *File) extent(off, end uint64) (backend.Extent, error) {
	data, err := f.seek(off, unix.SEEK_DATA)
	if err == unix.ENXIO {
		return f.lastExtent(off, end)
	}
	if err != nil {
		return backend.Extent{}, err
	}
	if data > off {
		return backend.Extent{Length: min(data, end) - off, Hole: true, Zero: true}, nil
	}
	hole, err := f.seek(off, unix.SEEK_HOLE)
	if err != nil && err != unix.ENXIO {
		return backend.Extent{}, err
	}
	if err == unix.ENXIO || hole <= off {
		hole = end
	}
	return backend.Extent{Length: min(hole, end) - off}, nil
}

// lastExtent is what follows the last data of a file: a hole up to its end. If
// the file has become shorter, what is missing isn't a hole: reading it fails,
// and a client that skipped it would never know.
func (f *File) lastExtent(off, end uint64) (backend.Extent, error) {
	size, err := f.sizeNow(unix.AT_STATX_DONT_SYNC)
	if err != nil {
		return backend.Extent{}, err
	}
	if size <= off {
		return backend.Extent{Length: end - off}, nil
	}
	return backend.Extent{Length: min(size, end) - off, Hole: true, Zero: true}, nil
}

// seek doesn't disturb reads and writes: they don't use the file offset.
func (f *File) seek(off uint64, whence int) (uint64, error) {
	var n int64
	err := retry(func() (err error) {
		n, err = unix.Seek(f.fd, int64(off), whence)
		return err
	})
	return uint64(n), err
}
