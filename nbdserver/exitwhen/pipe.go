package exitwhen

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fifoMode lets the group of the volume write too: between the containers of a
// pod, which run as different users, fsGroup is what they share.
const fifoMode = 0o660

// PipeClosed happens when nobody holds the write end of a pipe any longer. The
// argument is either the number of a descriptor that the process inherited, the
// read end of a pipe(2), as for exit-when-pipe-closed in
// nbdkit-exitwhen-filter(1), or the path of a FIFO. A path that consists of
// digits is written "./5".
//
// Data in the pipe is never read. An inherited descriptor stays open and in the
// mode it is in, but is not passed on to children.
//
// A FIFO is made, with mode 0660 whatever the umask, if the path doesn't exist,
// and isn't removed afterwards. It counts as closed after at least one writer
// had it open and the last one closed it. A writer that hands over to another
// should open it before the first one closes it.
//
// The options aren't used: the kernel reports this condition.
func PipeClosed(fdOrPath string, _ Options) (Condition, error) {
	if fdOrPath == "" {
		return nil, errors.New("no pipe given: give the number of an inherited descriptor or the path of a FIFO")
	}
	if isNumber(fdOrPath) {
		return inheritedPipe(fdOrPath)
	}
	return namedPipe(fdOrPath)
}

// isNumber includes negative numbers, which are rather mistaken descriptors
// than files.
func isNumber(s string) bool {
	digits := strings.TrimPrefix(s, "-")
	return digits != "" && strings.Trim(digits, "0123456789") == ""
}

func inheritedPipe(number string) (Condition, error) {
	fd, err := strconv.Atoi(number)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("descriptor %s isn't open: pass it to the process, e.g. 9<pipe", number)
	}
	// Whatever else is open under the number, the runtime's own descriptors
	// among it, is no pipe.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("descriptor %d: fstat: %w", fd, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil, fmt.Errorf("descriptor %d isn't a pipe: pass the read end of a pipe to the process, e.g. 9<pipe", fd)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d: fcntl: %w", fd, err)
	}
	switch flags & unix.O_ACCMODE {
	case unix.O_WRONLY:
		return nil, fmt.Errorf("descriptor %d is the write end of a pipe: pass the read end", fd)
	case unix.O_RDWR:
		return nil, fmt.Errorf("descriptor %d is open for writing too, so that the pipe would never be closed: open it for reading only", fd)
	}
	unix.CloseOnExec(fd)
	d, err := newDescriptor(fmt.Sprintf("pipe-closed=%d", fd), fd, 0)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", fd, err)
	}
	return d, nil
}

func namedPipe(path string) (Condition, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	made := false
	err = unix.Stat(path, &st)
	if errors.Is(err, unix.ENOENT) {
		err = unix.Mkfifo(path, fifoMode)
		made = err == nil
		if errors.Is(err, unix.EEXIST) { // another container of the pod was faster
			err = nil
		}
		if err != nil {
			return nil, fmt.Errorf("can't make the FIFO %s: %w: make it beforehand, or its directory writable", path, err)
		}
		err = unix.Stat(path, &st)
	}
	if err != nil {
		return nil, fmt.Errorf("can't look at the FIFO %s: %w", path, err)
	}
	// Before opening it too, because to open a device can have effects.
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil, notFIFO(path)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("can't open the FIFO %s: %w", path, err)
	}
	err = unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFIFO {
		err = notFIFO(path)
	}
	if err == nil && made {
		err = unix.Fchmod(fd, fifoMode)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("can't use the FIFO %s: %w", path, err)
	}
	d, err := newOwnedDescriptor("pipe-closed="+path, fd, 0)
	if err != nil {
		return nil, fmt.Errorf("FIFO %s: %w", path, err)
	}
	return d, nil
}

func notFIFO(path string) error {
	return fmt.Errorf("%s exists and isn't a FIFO: give the path of a FIFO, or one that doesn't exist yet", path)
}
