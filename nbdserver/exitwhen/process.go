package exitwhen

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ProcessExits happens when the process with the given id exits; one that has
// exited and that its parent hasn't waited for, a zombie, has exited. An argument
// that begins with "name=" is about the processes of a name: see newNamed.
//
// As for exit-when-process-exits in nbdkit-exitwhen-filter(1) there is a small
// race: if the process exits before it is looked at here, and another one gets
// its id, the other one is watched. From here on the process can't be mistaken
// for another. PipeClosed has no such race.
//
// The options aren't used for an id: the kernel reports this condition.
func ProcessExits(pid string, o Options) (Condition, error) {
	if name, ok := strings.CutPrefix(pid, "name="); ok {
		c, err := newNamed(name, o)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	n, err := strconv.ParseUint(pid, 10, 31)
	if err != nil || n == 0 {
		return nil, fmt.Errorf("%q isn't a process id: give a positive number, or name=NAME", pid)
	}
	if int(n) == os.Getpid() {
		return nil, fmt.Errorf("process %d is this server itself: give the id of another process", n)
	}
	d, err := newProcess(fmt.Sprintf("process-exits=%d", n), int(n))
	if err != nil {
		return nil, err
	}
	return d, nil
}

// newProcess is the condition of that name that the process has exited.
func newProcess(name string, pid int) (*descriptor, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	switch {
	case errors.Is(err, unix.ESRCH):
		return nil, fmt.Errorf("process %d doesn't exist: give the id of a running process (in a pod: one of this container, or set shareProcessNamespace)", pid)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT): // ENOENT since Linux 6.16
		return nil, fmt.Errorf("%d is a thread, not a process: give the id of its process", pid)
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("process %d can't be watched: pidfd_open: %w: Linux 5.3 or newer, and a seccomp profile that allows the call, are needed", pid, err)
	case err != nil:
		return nil, fmt.Errorf("process %d: pidfd_open: %w", pid, err)
	}
	// A pidfd becomes readable when all threads of the process have exited.
	d, err := newOwnedDescriptor(name, fd, unix.EPOLLIN)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return d, nil
}
