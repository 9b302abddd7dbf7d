package interop

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Whoever reads the log goes away: that doesn't end the server.
func TestLogReaderGoes(t *testing.T) {
	cmd := exec.Command(raceBinary, "serve", "--listen", "tcp://127.0.0.1:0", "--print-uri", "memory:1M")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() {
		t.Fatal("the server doesn't listen")
	}
	r.Close()
	for range 3 { // each one is a line in the log
		must(t, "nbdinfo", "--size", lines.Text())
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the server ended: %v", err)
	}
}

// As process 1, which it is in a pod, the server inherits what a script leaves
// behind when it is killed. Making a process namespace needs root.
func TestReapsOrphans(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", plainBinary, "serve",
		"--listen", "unix://"+filepath.Join(shortDir(t), "sock"), "--exit-when-poll", "1", "--exit-when-script",
		`{"command":["/bin/sh","-c","sleep 100 | sleep 100"],"timeoutSeconds":1}`, "memory:1M")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("unshare, which needs root: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(stderr)
	for runs := 0; runs < 4; {
		if !lines.Scan() {
			t.Fatal("the server has ended")
		}
		if strings.Contains(lines.Text(), "its timeout") {
			runs++
		}
	}
	children := must(t, "pgrep", "-P", fmt.Sprint(cmd.Process.Pid))
	// Each run leaves two; those of the last one may not be dead yet.
	if out, _ := exec.Command("ps", "-o", "stat=", "--ppid", strings.TrimSpace(children)).Output(); strings.Count(string(out), "Z") > 2 {
		t.Errorf("zombies:\n%s", out)
	}
}

// qemu-nbd asks for two things of each export, all on one connection.
func TestListsAsManyExportsAsThereMayBe(t *testing.T) {
	var volumes []string
	for i := range 32 {
		volumes = append(volumes, fmt.Sprintf("disk%d=memory:1M", i))
	}
	s := start(t, config{volumes: volumes})
	out := must(t, "qemu-nbd", "--list", "--socket", s.socket)
	contains(t, out, "exports available: 32", "disk31")
}
