package exitwhen

import (
	"os"
	"testing"
)

// parents has parentExits see one parent after the other.
func parents(pids ...int) func() int {
	return func() int {
		pid := pids[0]
		if len(pids) > 1 {
			pids = pids[1:]
		}
		return pid
	}
}

func TestParentExits(t *testing.T) {
	pid, stdin, _ := process(t)
	c := made(t)(parentExits(parents(pid)))
	if want := "parent-exits=" + itoa(pid); c.String() != want {
		t.Errorf("String() = %q, want %q", c, want)
	}
	check(t, c, false)
	watching := startWatch(t, c).parked()
	ok(t, stdin.Close())
	watching.happens()
	check(t, c, true)
}

func TestParentIsThere(t *testing.T) {
	c := made(t)(ParentExits(unpolled))
	if want := "parent-exits=" + itoa(os.Getppid()); c.String() != want {
		t.Errorf("String() = %q, want %q", c, want)
	}
	check(t, c, os.Getppid() == 1)
}

// A process whose parent has exited belongs to process 1 or to a subreaper.
func TestParentIsGone(t *testing.T) {
	pid, _, _ := process(t)
	const nobody = 2147483647 // over the largest pid_max
	for name, getppid := range map[string]func() int{
		"long ago":                       parents(1),
		"before it could be watched":     parents(nobody, 1),
		"and a subreaper has taken over": parents(nobody, pid),
		"and somebody else has its pid":  parents(pid, 1),
	} {
		t.Run(name, func(t *testing.T) {
			before := len(descriptors(t))
			c := made(t)(parentExits(getppid))
			check(t, c, true)
			ok(t, c.Watch(t.Context()))
			if after := len(descriptors(t)); after != before {
				t.Errorf("%d descriptors were open, %d are", before, after)
			}
		})
	}
}

func TestParentIsElsewhere(t *testing.T) {
	c, err := parentExits(parents(0))
	refused(t, c, err, "pid namespace")
}
