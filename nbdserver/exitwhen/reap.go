package exitwhen

import (
	"errors"
	"sync"
	"syscall"
)

// left are the process groups of scripts that may have members of which this
// process is the parent. As process 1 of a container it inherits what a script
// leaves behind, and nobody else collects that. Elsewhere it has no such
// children, and nothing stays in here.
var left = struct {
	sync.Mutex
	groups map[int]struct{}
}{groups: map[int]struct{}{}}

// reap collects the dead of a script's group, and of earlier ones whose members
// weren't dead yet when those were looked at. The process's other children have
// other groups, so that nobody's exit status is taken away.
func reap(group int) {
	left.Lock()
	defer left.Unlock()
	left.groups[group] = struct{}{}
	for g := range left.groups {
		if !collect(g) {
			delete(left.groups, g)
		}
	}
}

// collect takes the exit statuses of a group's dead, and tells whether others of
// it live.
func collect(group int) bool {
	for {
		pid, err := syscall.Wait4(-group, nil, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR) || pid > 0:
		case err != nil: // ECHILD: it has no members that are our children
			return false
		default:
			return true
		}
	}
}
