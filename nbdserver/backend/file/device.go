package file

import (
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sysDevBlock has a link for every block device, named MAJOR:MINOR, to its
// directory in sysfs; see sysfs(5).
const sysDevBlock = "/sys/dev/block"

// rotational tells whether the block device with a number is a spinning disk,
// and false if that can't be found out, as for the file systems that lie on no
// one device (overlayfs, btrfs, NFS, tmpfs).
func rotational(sysDevBlock string, number uint64) bool {
	return queueAttribute(sysDevBlock, number, "rotational") == "1"
}

// zeroesByItself tells whether the block device with a number has a command to
// zero a range, and false if that can't be found out.
func zeroesByItself(sysDevBlock string, number uint64) bool {
	most := queueAttribute(sysDevBlock, number, "write_zeroes_max_bytes")
	return most != "" && most != "0"
}

// queueAttribute reads what the kernel knows of the block device with a number;
// it is empty if that can't be found out.
func queueAttribute(sysDevBlock string, number uint64, name string) string {
	dir := fmt.Sprintf("%s/%d:%d/", sysDevBlock, unix.Major(number), unix.Minor(number))
	// A partition has no queue of its own: its disk is the directory above.
	for _, queue := range []string{"queue/", "../queue/"} {
		if b, err := os.ReadFile(dir + queue + name); err == nil {
			return strings.TrimSpace(string(b))
		}
	}
	return ""
}

// deviceSize returns the size of a block device in bytes.
func deviceSize(fd int) (uint64, error) {
	var size uint64
	err := ioctl(fd, unix.BLKGETSIZE64, unsafe.Pointer(&size))
	return size, err
}

// discard tells a block device that the content of a range is no longer needed.
// The kernel drops the range from the page cache too.
func discard(fd int, off, length uint64) error {
	r := [2]uint64{off, length}
	return ioctl(fd, unix.BLKDISCARD, unsafe.Pointer(&r))
}

// ioctl is for the requests that x/sys/unix has no function for.
func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	return retry(func() error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
		if errno != 0 {
			return errno
		}
		return nil
	})
}
