package exitwhen

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"testing"
)

// process is one that runs until its standard input is closed.
func process(t *testing.T) (pid int, stdin io.Closer, cmd *exec.Cmd) {
	t.Helper()
	cmd = exec.Command("cat")
	in, err := cmd.StdinPipe()
	ok(t, err)
	ok(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // an error if the test has waited
	})
	return cmd.Process.Pid, in, cmd
}

func TestProcessBecomesZombie(t *testing.T) {
	pid, stdin, _ := process(t)
	c := made(t)(ProcessExits(itoa(pid), unpolled))
	if want := "process-exits=" + itoa(pid); c.String() != want {
		t.Errorf("String() = %q, want %q", c, want)
	}
	check(t, c, false)
	startWatch(t, c).parked().canceled()
	watching := startWatch(t, c).parked()
	ok(t, stdin.Close())
	watching.happens()
	check(t, c, true)
}

func TestProcessExitsAndIsWaitedFor(t *testing.T) {
	pid, stdin, cmd := process(t)
	c := made(t)(ProcessExits(itoa(pid), unpolled))
	ok(t, stdin.Close())
	ok(t, cmd.Wait())
	check(t, c, true)
	startWatch(t, c).happens()
}

func TestProcessIsZombieAtStart(t *testing.T) {
	pid, stdin, _ := process(t)
	ok(t, stdin.Close())
	eventually(t, "the process is a zombie", func() bool {
		stat, err := os.ReadFile("/proc/" + itoa(pid) + "/stat")
		ok(t, err)
		return bytes.Contains(stat, []byte(") Z "))
	})
	check(t, made(t)(ProcessExits(itoa(pid), unpolled)), true)
}

func TestProcessRefused(t *testing.T) {
	for _, tt := range []struct{ pid, words string }{
		{"2147483647", "process 2147483647 doesn't exist"}, // over the largest pid_max
		{"0", "isn't a process id"},
		{"-1", "isn't a process id"},
		{"+1", "isn't a process id"},
		{"", "isn't a process id"},
		{"1x", "isn't a process id"},
		{"init", "isn't a process id"},
		{"2147483648", "isn't a process id"},
		{"99999999999999999999", "isn't a process id"},
		{itoa(os.Getpid()), "is this server itself"},
		{thread(t), "is a thread, not a process"},
	} {
		c, err := ProcessExits(tt.pid, unpolled)
		refused(t, c, err, tt.words)
	}
}

// thread is the id of one that isn't its process's first.
func thread(t *testing.T) string {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	ok(t, err)
	for _, task := range tasks {
		if task.Name() != itoa(os.Getpid()) {
			return task.Name()
		}
	}
	t.Fatal("the runtime has one thread only")
	return ""
}
