package file

import (
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// Options say how a volume is opened. The zero value opens it for reading and
// writing.
type Options struct {
	// Root is a directory that the volume must lie in; empty for anywhere.
	// The path given to Open is then relative to it, and neither ".." nor a
	// symbolic link leads out of it: whoever may write into the directory, such
	// as the owner of a mounted volume, chooses files of that directory and no
	// others. Device nodes in it are refused for the same reason.
	Root string
	// ReadOnly opens the volume for reading only.
	ReadOnly bool
}

// minBlockSize and maxBlockSize are the limits in bytes of PreferredBlockSize.
// Below 4096 the page cache reads before it writes; NBD allows up to 32 MiB.
const (
	minBlockSize = 4096
	maxBlockSize = 32 << 20
)

// Open opens a regular file or a block device as a volume. A file that grows
// later keeps its old size as a volume until Resize is called.
//
// An error wraps that of the operating system, so that errors.Is(err,
// fs.ErrNotExist) and the like work.
func Open(path string, opt Options) (*File, error) {
	if path == "" {
		return nil, errors.New("volume: no path is given")
	}
	file, err := openBeneath(opt.Root, path, opt.ReadOnly)
	name := path
	if opt.Root != "" {
		name = filepath.Join(opt.Root, path)
	}
	if err != nil {
		return nil, describe(name, err)
	}
	f := &File{file: file, fd: int(file.Fd()), path: name}
	f.info.ReadOnly = opt.ReadOnly
	if err := f.inspect(); err != nil {
		file.Close()
		return nil, fmt.Errorf("volume %q: %w", name, err)
	}
	return f, nil
}

// opener is what os.Root has, and os as a whole.
type opener struct {
	stat func(string) (fs.FileInfo, error)
	open func(string, int, fs.FileMode) (*os.File, error)
}

// openBeneath opens a file of a kind that a volume may have, beneath a root
// unless that is empty.
func openBeneath(root, path string, readOnly bool) (*os.File, error) {
	from := opener{os.Stat, os.OpenFile}
	if root != "" {
		r, err := os.OpenRoot(root)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		from = opener{r.Stat, r.OpenFile}
	}
	// To open some devices does something, so nothing is opened before its
	// kind is known. What is put in its place meanwhile is noticed below, and
	// with O_NONBLOCK not even a FIFO without a writer can keep Open waiting.
	st, err := from.stat(path)
	if err != nil {
		return nil, err
	}
	if err := checkKind(st.Mode(), root != ""); err != nil {
		return nil, err
	}
	flags := os.O_RDWR
	if readOnly {
		flags = os.O_RDONLY
	}
	file, err := from.open(path, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if st, err = file.Stat(); err == nil {
		err = checkKind(st.Mode(), root != "")
	}
	if err == nil {
		// Some file systems take O_NONBLOCK seriously.
		err = unix.SetNonblock(int(file.Fd()), false)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// checkKind tells why a file of a kind can't be a volume.
func checkKind(mode fs.FileMode, beneath bool) error {
	const instead = "name a regular file or a block device"
	switch {
	case mode.IsRegular():
		return nil
	case mode.IsDir():
		return errors.New("is a directory: name the image file in it")
	case mode&fs.ModeNamedPipe != 0:
		return errors.New("is a FIFO: " + instead)
	case mode&fs.ModeSocket != 0:
		return errors.New("is a socket: " + instead)
	case mode&fs.ModeCharDevice != 0:
		return errors.New("is a character device: " + instead)
	case mode&fs.ModeDevice == 0:
		return fmt.Errorf("is a file of unknown kind (%v): %s", mode, instead)
	case beneath:
		return errors.New("is a device node inside a root directory: name a regular file, or open the device without a root")
	}
	return nil
}

// describe adds what helps to an error of opening a file, and leaves out what
// would be said twice.
func describe(name string, err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("volume %q: %w for user %d, group %d", name, err, os.Geteuid(), os.Getegid())
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("volume %q: %w: export it read-only", name, err)
	}
	return fmt.Errorf("volume %q: %w", name, err)
}

// inspect finds out what the open file is like.
func (f *File) inspect() error {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(f.fd, &st) }); err != nil {
		return err
	}
	f.punch.modes = []uint32{unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE}
	f.zeroRange.modes = []uint32{unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE}
	f.reserve.modes = []uint32{f.punch.modes[0], unix.FALLOC_FL_KEEP_SIZE}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return f.inspectDevice(st.Rdev)
	}
	f.align = 1
	f.info.FastZero = true
	f.size.Store(uint64(st.Size))
	f.info.PreferredBlockSize = blockSize(uint64(st.Blksize))
	f.info.Rotational = rotational(sysDevBlock, st.Dev)
	return nil
}

// blockSize makes a PreferredBlockSize of what the kernel recommends: the power
// of two below, within the limits.
func blockSize(n uint64) uint32 {
	n = min(max(n, minBlockSize), maxBlockSize)
	return 1 << (bits.Len64(n) - 1)
}

var errReadOnlyDevice = fmt.Errorf("the block device is read-only: export it read-only (%w)", unix.EROFS)

// inspectDevice is inspect for a block device with a device number.
func (f *File) inspectDevice(number uint64) error {
	readOnly, err := unix.IoctlGetUint32(f.fd, unix.BLKROGET)
	if err != nil {
		return fmt.Errorf("ioctl BLKROGET: %w", err)
	}
	if readOnly != 0 && !f.info.ReadOnly {
		return errReadOnlyDevice
	}
	size, err := deviceSize(f.fd)
	if err != nil {
		return fmt.Errorf("ioctl BLKGETSIZE64: %w", err)
	}
	logical, err := unix.IoctlGetUint32(f.fd, unix.BLKSSZGET)
	if err != nil {
		return fmt.Errorf("ioctl BLKSSZGET: %w", err)
	}
	physical, err := unix.IoctlGetUint32(f.fd, unix.BLKPBSZGET)
	if err != nil {
		return fmt.Errorf("ioctl BLKPBSZGET: %w", err)
	}
	f.device = true
	// The kernel asks for whole sectors. Whole pages are safer: a write to one
	// part of a page of the page cache could bring back what another part of
	// it held before it was zeroed on the device.
	f.align = max(uint64(logical), uint64(os.Getpagesize()))
	// There is nothing to reserve on a device.
	f.reserve.unsupported.Store(true)
	f.punchKnown = zeroesByItself(sysDevBlock, number)
	f.size.Store(size)
	f.info = backend.Info{
		ReadOnly:           f.info.ReadOnly,
		Rotational:         rotational(sysDevBlock, number),
		PreferredBlockSize: blockSize(uint64(physical)),
		FastZero:           true,
	}
	return nil
}
