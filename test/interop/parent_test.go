package interop

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/report"
)

// endOrphan sees to it that a server whose parent isn't the test doesn't outlive
// it: its FIFO is closed then.
func endOrphan(t *testing.T) (flags string) {
	t.Helper()
	fifo := t.TempDir() + "/alive"
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return " --exit-when-pipe-closed " + fifo + " "
}

// awaitReport waits for the end of a server that isn't the test's child.
func awaitReport(t *testing.T, path string) report.Report {
	t.Helper()
	eventually(t, "the server ends", func() bool {
		_, err := os.Stat(path)
		return err == nil
	})
	return readReport(t, path)
}

// TestExitWithParent: the parent is killed and can't tell anybody.
func TestExitWithParent(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/report.json"
	parent := command(t, "/bin/sh", "-c", raceBinary+" serve memory:1M --exit-with-parent --print-uri --listen tcp://127.0.0.1:0 --report "+
		path+endOrphan(t)+"& wait")
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() {
		t.Fatal("the server doesn't listen")
	}
	s := &server{t: t, uris: map[string][]string{"tcp": {lines.Text()}}}
	c := s.connect("tcp")
	c.read(0, 512)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // it was killed
	eventually(t, "newcomers are refused", func() bool {
		return do(t, command(t, "nbdinfo", lines.Text())).code != 0
	})
	c.read(0, 512) // it drains as after any other condition
	c.disconnect()
	if r := awaitReport(t, path); r.Condition != "parent-exits="+strconv.Itoa(parent.Process.Pid) || !r.Clean() {
		t.Errorf("the report is %+v", r)
	}
}

// TestParentGone: the parent exits before or while the server starts.
func TestParentGone(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/report.json"
	must(t, "/bin/sh", "-c", raceBinary+" serve memory:1M --exit-with-parent --listen tcp://127.0.0.1:0 --report "+path+endOrphan(t)+
		"< /dev/null > /dev/null 2>&1 &")
	if r := awaitReport(t, path); !strings.HasPrefix(r.Condition, "parent-exits=") || !r.Clean() {
		t.Errorf("the report is %+v", r)
	}
}

// TestParentElsewhere: in a container the parent of process 1 is outside. Making
// a process namespace needs root.
func TestParentElsewhere(t *testing.T) {
	t.Parallel()
	refused(t, command(t, "unshare", "--pid", "--fork", "--kill-child", plainBinary, "serve", "memory:1M", "--exit-with-parent"),
		[]string{"--exit-with-parent", "pid namespace"})
}
