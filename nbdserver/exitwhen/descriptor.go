package exitwhen

import (
	"context"

	"golang.org/x/sys/unix"
)

// descriptor is a condition that has happened when an event of a descriptor is
// there. It serves pipes and processes.
type descriptor struct {
	name     string
	poll     *epoll
	owned    int // closed along with the condition; -1 for none
	happened bool
	closed   bool
}

// newDescriptor watches fd for events, see newEpoll.
func newDescriptor(name string, fd int, events uint32) (*descriptor, error) {
	poll, err := newEpoll(fd, events)
	if err != nil {
		return nil, err
	}
	return &descriptor{name: name, poll: poll, owned: -1}, nil
}

// newOwnedDescriptor is newDescriptor for an fd that it takes over, also on
// error.
func newOwnedDescriptor(name string, fd int, events uint32) (*descriptor, error) {
	d, err := newDescriptor(name, fd, events)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	d.owned = fd
	return d, nil
}

func (d *descriptor) String() string { return d.name }

func (d *descriptor) Check(context.Context) (bool, error) {
	// A FIFO that gets a new writer is no longer hung up: hence the latch.
	d.happened = d.happened || d.poll.ready()
	return d.happened, nil
}

func (d *descriptor) Watch(ctx context.Context) error {
	if d.happened {
		return nil
	}
	if err := d.poll.wait(ctx); err != nil {
		return err
	}
	d.happened = true
	return nil
}

func (d *descriptor) Close() error {
	if d.closed {
		return nil
	}
	d.closed = true
	if d.owned >= 0 {
		unix.Close(d.owned)
	}
	return d.poll.close()
}
