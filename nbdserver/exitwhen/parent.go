package exitwhen

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// ParentExits happens when the process that started this one exits, by
// whichever of its threads. The signal that prctl(2) can send at a parent's
// death isn't used: it comes when the parent's thread ends, and nobody learns of
// a parent that was gone before.
//
// A parent that has exited before this call is noticed if the kernel gave this
// process to process 1, or gives it away during the call; process 1 as the
// parent therefore counts as one that has exited. A parent in another pid
// namespace can't be watched and is an error.
//
// The options aren't used: the kernel reports this condition.
func ParentExits(_ Options) (Condition, error) {
	return parentExits(os.Getppid)
}

func parentExits(getppid func() int) (Condition, error) {
	parent := getppid()
	if parent == 0 {
		return nil, errors.New("the parent process is outside of this process's pid namespace and can't be watched from in here: share the namespace, or end the server by a signal or another exit condition")
	}
	name := fmt.Sprintf("parent-exits=%d", parent)
	if parent == 1 {
		return orphan(name), nil
	}
	d, err := newProcess(name, parent)
	// Whatever was opened, it was the parent only if that is still there.
	if getppid() != parent {
		if err == nil {
			d.Close() //nolint:errcheck // nothing was waited for
		}
		return orphan(name), nil
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// orphan is the condition that the parent has exited, when it has.
type orphan string

func (o orphan) String() string                      { return string(o) }
func (o orphan) Check(context.Context) (bool, error) { return true, nil }
func (o orphan) Watch(context.Context) error         { return nil }
func (o orphan) Close() error                        { return nil }
