package exitwhen

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// quick are options with which what has to be looked for is found soon.
var quick = Options{Poll: time.Millisecond}

// called starts a copy of cat with a name of its own. It runs until its standard
// input is closed, and is not waited for until the end of the test.
func called(t *testing.T, name string) (cmd *exec.Cmd, stdin io.Closer) {
	t.Helper()
	cat, err := exec.LookPath("cat")
	ok(t, err)
	program, err := os.ReadFile(cat)
	ok(t, err)
	file := filepath.Join(t.TempDir(), name)
	ok(t, os.WriteFile(file, program, 0o700))
	cmd = exec.Command(file)
	in, err := cmd.StdinPipe()
	ok(t, err)
	ok(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // an error if the test has waited
	})
	return cmd, in
}

// unique is a name that no process has outside of this test.
func unique(t *testing.T, prefix string) string {
	return prefix + itoa(os.Getpid()) + "-" + itoa(len(t.Name()))
}

func TestNamedExits(t *testing.T) {
	for name, prefix := range map[string]string{"by comm": "n", "by argv": "a-name-of-more-than-15-bytes-"} {
		t.Run(name, func(t *testing.T) {
			process := unique(t, prefix)
			_, first := called(t, process)
			_, second := called(t, process)
			c := made(t)(ProcessExits("name="+process, unpolled))
			if want := "process-exits=name=" + process; c.String() != want {
				t.Errorf("String() = %q, want %q", c, want)
			}
			check(t, c, false)
			watching := startWatch(t, c).parked()
			ok(t, first.Close())
			watching.parked()
			check(t, made(t)(ProcessExits("name="+process, unpolled)), false)
			ok(t, second.Close())
			watching.happens()
			check(t, c, true)
		})
	}
}

// TestNamedComesLater: a process that isn't there yet is waited for.
func TestNamedComesLater(t *testing.T) {
	process := unique(t, "later")
	c := made(t)(ProcessExits("name="+process, quick))
	check(t, c, false)
	watching := startWatch(t, c)
	_, stdin := called(t, process)
	watching.parked()
	ok(t, stdin.Close())
	watching.happens()
}

// TestNamedSuccessor: while there is another one, started before the first has
// exited, the condition isn't met.
func TestNamedSuccessor(t *testing.T) {
	process := unique(t, "next")
	_, first := called(t, process)
	c := made(t)(ProcessExits("name="+process, unpolled)).(*named)
	check(t, c, false)
	if len(c.watched) != 1 {
		t.Fatalf("%d processes are watched", len(c.watched))
	}
	_, second := called(t, process)
	ok(t, first.Close())
	eventually(t, "the first has exited", func() bool {
		check(t, c, false)
		return len(c.watched) == 1
	})
	watching := startWatch(t, c).parked()
	ok(t, second.Close())
	watching.happens()
}

func TestNamedIsZombieAtStart(t *testing.T) {
	process := unique(t, "dead")
	cmd, stdin := called(t, process)
	ok(t, stdin.Close())
	eventually(t, "the process is a zombie", func() bool {
		stat, err := os.ReadFile("/proc/" + itoa(cmd.Process.Pid) + "/stat")
		ok(t, err)
		return strings.Contains(string(stat), ") Z ")
	})
	check(t, made(t)(ProcessExits("name="+process, unpolled)), true)
}

// TestNamedRenamed: who has been seen counts until it exits, whatever it calls
// itself.
func TestNamedRenamed(t *testing.T) {
	before, after := unique(t, "before"), unique(t, "after")
	dir := t.TempDir()
	ok(t, os.Symlink("/bin/sh", filepath.Join(dir, before)))
	cat, err := exec.LookPath("cat")
	ok(t, err)
	ok(t, os.Symlink(cat, filepath.Join(dir, after)))
	cmd := exec.Command(filepath.Join(dir, before), "-c", "read x; exec "+filepath.Join(dir, after))
	stdin, err := cmd.StdinPipe()
	ok(t, err)
	ok(t, cmd.Start())
	t.Cleanup(func() { stdin.Close(); _ = cmd.Wait() })
	c := made(t)(ProcessExits("name="+before, unpolled))
	check(t, c, false)
	_, err = io.WriteString(stdin, "x\n")
	ok(t, err)
	eventually(t, "it has another name", func() bool {
		comm, err := os.ReadFile("/proc/" + itoa(cmd.Process.Pid) + "/comm")
		ok(t, err)
		return strings.HasPrefix(string(comm), "after")
	})
	check(t, c, false)
	ok(t, stdin.Close())
	startWatch(t, c).happens()
}

// TestNamedNotItself: the server doesn't wait for its own end.
func TestNamedNotItself(t *testing.T) {
	self, err := os.ReadFile("/proc/self/comm")
	ok(t, err)
	c, err := newNamed(strings.TrimSpace(string(self)), quick)
	ok(t, err)
	pids, err := c.scan()
	ok(t, err)
	if slices.Contains(pids, os.Getpid()) {
		t.Error("it has found itself")
	}
}

// TestNamedHidden: that other users' processes can't be looked at is said once, and
// is no end of anything.
func TestNamedHidden(t *testing.T) {
	process := unique(t, "hidden")
	_, stdin := called(t, process)
	log, logs := observed()
	c, err := newNamed(process, Options{Log: log})
	ok(t, err)
	made(t)(c, nil)
	c.read = func(file string) ([]byte, error) {
		return nil, &os.PathError{Op: "open", Path: file, Err: syscall.EPERM}
	}
	check(t, c, false)
	check(t, c, false)
	if all := logs.All(); len(all) != 1 || !strings.Contains(all[0].Message, "without hidepid") {
		t.Errorf("logged: %v", all)
	}
	c.read = readStart
	check(t, c, false)
	ok(t, stdin.Close())
	startWatch(t, c).happens()
}

func TestNamedRefused(t *testing.T) {
	for _, name := range []string{"", "a/b", "/bin/x", "a\x00b", "a\nb", strings.Repeat("n", 256)} {
		c, err := ProcessExits("name="+name, unpolled)
		refused(t, c, err, "is no name of a process")
	}
}
