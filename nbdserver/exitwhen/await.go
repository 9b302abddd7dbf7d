package exitwhen

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pollable makes a file of fd that the Go runtime's poller waits for, so that
// waiting costs a goroutine and no thread. It takes fd over, also on error.
func pollable(fd int, name string) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	// NewFile keeps it to itself if the poller refuses the descriptor; then
	// waiting for it would block a thread that can't be called back.
	if err := f.SetReadDeadline(time.Time{}); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

// await calls try, at once and then each time the kernel says that f has become
// readable, until try returns true. It returns ctx's error if ctx ends, and
// os.ErrDeadlineExceeded if the deadline passes first; the zero deadline never
// passes. Only one await may run for a file at a time.
func await(ctx context.Context, f *os.File, deadline time.Time, try func() bool) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	for {
		if err := f.SetReadDeadline(deadline); err != nil {
			return err
		}
		// A cancellation that comes after this sets its deadline over the one
		// above; one that came before it is seen here.
		stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
		if ctx.Err() == nil {
			err = raw.Read(func(uintptr) bool { return try() })
		}
		stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// The cancellation of an earlier await may come late and end this one.
		early := deadline.IsZero() || time.Now().Before(deadline)
		if errors.Is(err, os.ErrDeadlineExceeded) && early {
			continue
		}
		return err
	}
}
