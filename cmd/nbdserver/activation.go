package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// runFlags are the flags of "nbdserver serve" about the ways to be run, as they were written.
type runFlags struct {
	stdio          bool
	command        string // of --run; empty for none
	exitWithParent bool
	// sockets are those that were inherited, no flag.
	sockets []*os.File
}

// check refuses what doesn't go together.
func (f runFlags) check(listen []string, printURI bool) error {
	inherited := len(f.sockets) > 0
	switch {
	case inherited && len(listen) > 0:
		return errors.New("--listen: sockets to listen on were passed by LISTEN_FDS already: leave one of the two out")
	case inherited && f.stdio:
		return errors.New("--stdio: sockets to listen on were passed by LISTEN_FDS already: leave one of the two out")
	case inherited && f.command != "":
		return errors.New("--run: sockets to listen on were passed by LISTEN_FDS, for somebody else's clients: leave one of the two out")
	case f.stdio && len(listen) > 0:
		return errors.New("--stdio: its client is the only one: leave --listen out")
	case f.stdio && printURI:
		return errors.New("--stdio: standard output belongs to the client: leave --print-uri out")
	case f.stdio && f.command != "":
		return errors.New("--stdio: standard input and output belong to the client: leave --run out")
	}
	return nil
}

// firstInherited is the number of the first inherited socket,
// SD_LISTEN_FDS_START of sd_listen_fds(3).
const firstInherited = 3

// inheritedSockets returns the listening sockets that a service manager passes
// to this process by LISTEN_FDS and LISTEN_PID, as sd_listen_fds(3) has it; nil
// if there are none. It takes the variables out of the environment, and keeps
// the sockets from other programs that this process runs.
func inheritedSockets() ([]*os.File, error) {
	pid, number := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(name)
	}
	if pid != strconv.Itoa(os.Getpid()) {
		return nil, nil // nothing, or it is for another process
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 {
		return nil, fmt.Errorf("LISTEN_FDS is %q: it must be the number of sockets that are passed, from 1 on", number)
	}
	// None is taken over before all are known to be what they should be: this
	// process has descriptors of its own.
	for i := range n {
		fd := firstInherited + i
		if err := checkStream(fd, true); err != nil {
			return nil, fmt.Errorf("LISTEN_FDS: descriptor %d %w", fd, err)
		}
	}
	var sockets []*os.File
	for i := range n {
		fd := firstInherited + i
		unix.CloseOnExec(fd)
		sockets = append(sockets, os.NewFile(uintptr(fd), fmt.Sprintf("descriptor %d", fd)))
	}
	return sockets, nil
}

// checkStream tells what is wrong with a stream socket that should listen, or
// that should be connected.
func checkStream(fd int, listening bool) error {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case errors.Is(err, unix.EBADF):
		return errors.New("isn't open")
	case errors.Is(err, unix.ENOTSOCK):
		return errors.New("isn't a socket")
	case err != nil:
		return fmt.Errorf("can't be looked at: %w", err)
	case typ != unix.SOCK_STREAM:
		return errors.New("isn't a stream socket")
	}
	switch accepts, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); {
	case err != nil:
		return fmt.Errorf("can't be looked at: %w", err)
	case listening && accepts == 0:
		return errors.New("doesn't listen: pass a listening socket (for a systemd unit: Accept=no), or a connected one by --stdio")
	case !listening && accepts != 0:
		return errors.New("is a listening socket: pass a connected one")
	}
	return nil
}

// listenInherited makes listeners of the inherited sockets. Their files, if they
// are unix sockets, stay: they belong to whoever made them.
func listenInherited(sockets []*os.File) ([]net.Listener, error) {
	var all []net.Listener
	for _, s := range sockets {
		l, err := net.FileListener(s) // has a descriptor of its own
		s.Close()
		if err != nil {
			for _, l := range all {
				l.Close()
			}
			return nil, fmt.Errorf("LISTEN_FDS: %s: %w", s.Name(), err)
		}
		all = append(all, l)
	}
	return all, nil
}
