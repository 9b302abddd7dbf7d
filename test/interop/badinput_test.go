package interop

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tooLong is when a start-up error comes too late. On an idle machine it takes
// some hundredths of a second.
const tooLong = 5 * time.Second

// TestBadInput: exit code 1, and one line on standard error that says what is
// wrong with what.
func TestBadInput(t *testing.T) {
	dir := shortDir(t)
	touch(t, dir+"/garbage")
	disk := newHole(t, "disk", mib)
	if err := syscall.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(disk, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	live, err := net.Listen("unix", dir+"/live")
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	gone := itoa(int64(dead.Process.Pid))

	const ok = "memory:1M"
	tests := []struct {
		name string
		args []string
		want []string // in the line
	}{
		{"no volume", nil, []string{"no volume"}},
		{"no such source", []string{dir + "/nope", "--listen", "tcp://" + taken}, []string{`volume "` + dir + `/nope"`, "no such file"}},
		{"one of two sources", []string{ok, dir + "/nope"}, []string{dir + "/nope"}},
		{"directory", []string{dir}, []string{dir, "is a directory"}},
		{"FIFO", []string{dir + "/fifo"}, []string{dir + "/fifo", "is a FIFO"}},
		{"socket", []string{dir + "/live"}, []string{dir + "/live", "is a socket"}},
		{"character device", []string{"/dev/null"}, []string{"/dev/null", "is a character device"}},
		{"link out of the root", []string{"link,root=" + dir}, []string{dir + "/link"}},
		{"path out of the root", []string{"../etc/passwd,root=" + dir}, []string{"passwd"}},
		{"no such root", []string{"x,root=" + dir + "/nope"}, []string{"nope"}},
		{"volume twice", []string{disk, disk}, []string{"the same name", `"disk"`}},
		{"name twice", []string{"a=" + disk, "a=" + ok}, []string{"the same name", `"a"`}},
		{"size", []string{"memory:big"}, []string{`"memory:big"`, "no size"}},
		{"no size", []string{"memory:"}, []string{`"memory:"`, "no size"}},
		{"access", []string{"memory:1M,access=rw"}, []string{"access", `"rw"`}},
		{"no source", []string{"a="}, []string{`"a="`, "source is missing"}},

		{"port in use", []string{ok, "--listen", "tcp://" + taken}, []string{"--listen", taken, "in use"}},
		{"second port in use", []string{ok, "--listen", "tcp://127.0.0.1:0", "--listen", "tcp://" + taken}, []string{"--listen", taken}},
		{"socket in use", []string{ok, "--listen", "unix://" + dir + "/live"}, []string{"--listen", dir + "/live", "in use"}},
		{"socket over a file", []string{ok, "--listen", "unix://" + disk}, []string{"--listen", disk, "no socket", "remove it"}},
		{"socket nowhere", []string{ok, "--listen", "unix:///nowhere/sock"}, []string{"--listen", "/nowhere/sock"}},
		{"address", []string{ok, "--listen", "127.0.0.1:10809"}, []string{"--listen", "tcp://HOST:PORT"}},
		{"http port in use", []string{ok, "--listen", "tcp://127.0.0.1:0", "--http", taken}, []string{"--http", taken}},
		{"http address", []string{ok, "--listen", "tcp://127.0.0.1:0", "--http", "here"}, []string{"--http", "here"}},
		{"control on the network", []string{ok, "--listen", "tcp://127.0.0.1:0", "--control", "tcp://127.0.0.1:0"}, []string{"--control", "unix:///PATH"}},

		{"pipe isn't open", []string{ok, "--exit-when-pipe-closed", "77"}, []string{"--exit-when-pipe-closed", "77", "isn't open"}},
		{"pipe is none", []string{ok, "--exit-when-pipe-closed", disk}, []string{"--exit-when-pipe-closed", disk, "FIFO"}},
		{"pid is gone", []string{ok, "--exit-when-process-exits", gone}, []string{"--exit-when-process-exits", gone, "doesn't exist"}},
		{"pid is none", []string{ok, "--exit-when-process-exits", "init"}, []string{"--exit-when-process-exits", "init"}},
		{"empty file name", []string{ok, "--exit-when-file-created", ""}, []string{"--exit-when-file-created"}},
		{"empty script", []string{ok, "--exit-when-script", " "}, []string{"--exit-when-script"}},
		{"script in bad JSON", []string{ok, "--exit-when-script", `{"command":`}, []string{"--exit-when-script"}},
		{"poll", []string{ok, "--exit-when-poll", "0"}, []string{"--exit-when-poll", "0"}},
		{"poll is none", []string{ok, "--exit-when-poll", "often"}, []string{"--exit-when-poll", "often"}},
		{"idle", []string{ok, "--exit-when-idle", "0s"}, []string{"--exit-when-idle", `"0s"`}},
		{"grace", []string{ok, "--exit-when-last-client-leaves=soon"}, []string{"--exit-when-last-client-leaves", `"soon"`}},
		{"deadline", []string{ok, "--exit-when-deadline", "18:30"}, []string{"--exit-when-deadline", `"18:30"`}},

		{"stdio is nothing", []string{ok, "--stdio"}, []string{"--stdio", "standard input", "neither a pipe nor a socket"}},
		{"stdio and listen", []string{ok, "--stdio", "--listen", "tcp://127.0.0.1:0"}, []string{"--stdio", "--listen"}},
		{"stdio and URI", []string{ok, "--stdio", "--print-uri"}, []string{"--stdio", "--print-uri"}},
		{"stdio and run", []string{ok, "--stdio", "--run", "true"}, []string{"--stdio", "--run"}},

		{"drain policy", []string{ok, "--drain-policy", "kick"}, []string{"--drain-policy", "kick"}},
		{"drain grace", []string{ok, "--drain-grace", "10"}, []string{"--drain-grace", `"10"`}},
		{"drain timeout", []string{ok, "--drain-timeout", "-1s"}, []string{"--drain-timeout", `"-1s"`}},
		{"log level", []string{ok, "--log-level", "loud"}, []string{"--log-level", "loud"}},
		{"log format", []string{ok, "--log-format", "xml"}, []string{"--log-format", "xml"}},
		{"once", []string{ok, "--once", dir + "/garbage"}, []string{"--once", dir + "/garbage"}},
		{"once is a directory", []string{ok, "--once", dir}, []string{"--once", dir}},
		{"once is a FIFO", []string{ok, "--once", dir + "/fifo"}, []string{"--once", dir + "/fifo", "no regular file"}},
		{"report is a directory", []string{ok, "--report", dir}, []string{"--report", dir, "is a directory"}},
		{"report nowhere", []string{ok, "--report", "/nowhere/report"}, []string{"--report", "/nowhere", "no such file"}},
		{"pidfile nowhere", []string{ok, "--pidfile", "/nowhere/pid"}, []string{"--pidfile", "/nowhere", "no such file"}},
		{"pidfile is a FIFO", []string{ok, "--pidfile", dir + "/fifo"}, []string{"--pidfile", dir + "/fifo", "no regular file"}},
		{"nothing where a value should be", []string{ok, "--deny", ""}, []string{"--deny", "empty"}},
		{"flag", []string{ok, "--bogus"}, []string{"--bogus"}},
		{"flag without value", []string{ok, "--listen"}, []string{"--listen"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			refused(t, command(t, raceBinary, append([]string{"serve"}, tt.args...)...), tt.want)
		})
	}
	t.Run("nobody reads the URI", func(t *testing.T) {
		cmd := command(t, "/bin/sh", "-c", raceBinary+" serve memory:1M --listen tcp://127.0.0.1:0 --print-uri --pidfile "+dir+"/pid >/dev/full")
		refused(t, cmd, []string{"--print-uri", "standard output", "no space"})
		if _, err := os.Stat(dir + "/pid"); err == nil {
			t.Error("the pidfile is there")
		}
	})
	t.Run("command", func(t *testing.T) { refused(t, command(t, raceBinary, "srve"), []string{"srve"}) })
	t.Run("ctl without a socket", func(t *testing.T) { refused(t, command(t, raceBinary, "ctl", "status"), []string{"--control"}) })
	t.Run("ctl without a word", func(t *testing.T) {
		refused(t, command(t, raceBinary, "ctl", "--control", "unix:///x"), []string{"ctl", "write one of drain, "})
	})
	t.Run("ctl of nobody", func(t *testing.T) {
		refused(t, command(t, raceBinary, "ctl", "--control", "unix://"+dir+"/nobody", "status"), []string{"--control: no server answers at " + dir + "/nobody: dial unix "})
	})
	t.Run("ctl with a word", func(t *testing.T) {
		refused(t, command(t, raceBinary, "ctl", "--control", "unix:///x", "stop"), []string{"stop"})
	})
}

// refused runs a server that must not start.
func refused(t *testing.T, cmd *exec.Cmd, want []string) {
	t.Helper()
	begin := time.Now()
	r := do(t, cmd)
	if took := time.Since(begin); took > tooLong {
		t.Errorf("it took %v", took)
	}
	if r.code != 1 || r.stdout != "" || strings.Count(r.stderr, "\n") != 1 || !strings.HasSuffix(r.stderr, "\n") {
		t.Errorf("exit code %d, %q, %q; want 1, nothing and one line", r.code, r.stdout, r.stderr)
	}
	contains(t, r.stderr, want...)
}

// TestNoPermission: a user who may not write to the file.
func TestNoPermission(t *testing.T) {
	dir := shortDir(t)
	disk := dir + "/disk"
	if err := os.WriteFile(disk, make([]byte, mib), 0o444); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, raceBinary, "serve", disk+",access=read-write", "--listen", "tcp://127.0.0.1:0")
	cmd.Dir = "/"
	user := os.Geteuid()
	if user == 0 { // to whom permissions mean nothing
		user = 65534
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	refused(t, cmd, []string{disk, "permission denied for user " + itoa(int64(user))})
}
