package exitwhen

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// epoll waits for events of one descriptor by an epoll(7) instance of its own.
// The descriptor itself stays as it is: unlike the runtime's poller, which
// needs it to be non-blocking, and that is a property of the open file, which
// an inherited descriptor shares with other processes.
type epoll struct {
	fd   int // of file, which stays open for as long as it is used
	file *os.File
}

// newEpoll watches fd for events (EPOLLIN and so on). EPOLLHUP and EPOLLERR are
// always among them; with events 0 nothing else wakes the watcher, however much
// data lies in a pipe.
func newEpoll(fd int, events uint32) (*epoll, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events}); err != nil {
		unix.Close(ep)
		return nil, fmt.Errorf("epoll_ctl: %w", err)
	}
	file, err := pollable(ep, "epoll")
	if err != nil {
		return nil, err
	}
	return &epoll{fd: ep, file: file}, nil
}

// ready tells whether one of the events is there now.
func (e *epoll) ready() bool {
	var events [1]unix.EpollEvent
	n, err := unix.EpollWait(e.fd, events[:], 0)
	return err == nil && n > 0
}

// wait returns nil when one of the events is there, or ctx's error. A descriptor
// with an event makes its epoll instance readable, which is what the runtime's
// poller waits for.
func (e *epoll) wait(ctx context.Context) error {
	return await(ctx, e.file, time.Time{}, e.ready)
}

func (e *epoll) close() error { return e.file.Close() }
