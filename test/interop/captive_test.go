package interop

import (
	"bytes"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/report"
)

// captive runs a server with a command to its end.
func captive(t *testing.T, shell string, args ...string) (result, report.Report) {
	t.Helper()
	path := t.TempDir() + "/report.json"
	cmd := command(t, raceBinary, append([]string{"serve", "--report", path, "--run", shell}, args...)...)
	cmd.Stdin = strings.NewReader("what was typed\n")
	cmd.Env = append(os.Environ(), "port=inherited", "unixsocket=inherited")
	return do(t, cmd), readReport(t, path)
}

// exits waits for the end of a server with a command, whose exit code isn't that
// of the report.
func (s *server) exits(code int) {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(patience):
		s.t.Fatal("the server doesn't end")
	}
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("exit code %d, want %d", got, code)
	}
}

// TestRun: with real clients, by a socket of its own and by a port.
func TestRun(t *testing.T) {
	image := newImage(t, "disk.img", sparse(8*mib))
	for name, args := range map[string][]string{
		"private": nil,
		"port":    {"--listen", "tcp://127.0.0.1:0"},
		"both":    {"--listen", "tcp://127.0.0.1:0", "--listen", "unix://" + shortDir(t) + "/sock"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := t.TempDir() + "/out.img"
			r, rep := captive(t, `qemu-img info -f raw "$uri" && nbdinfo --size "$nbd" && nbdcopy "$uri" '`+out+`'`, append(args, image)...)
			if r.code != 0 || rep.Condition != "run=exited" || !rep.Clean() {
				t.Errorf("exit code %d, report %+v\n%s", r.code, rep, r.stderr)
			}
			contains(t, r.stdout, "virtual size: 8 MiB", "8388608\n")
			sameFile(t, image, out)
		})
	}
}

func TestRunEnvironment(t *testing.T) {
	t.Parallel()
	const show = `echo "$uri|$nbd|$port|$unixsocket|$exportname"; cat; stat -c %a "$(dirname "${unixsocket:-/x/y}")" 2>/dev/null`
	r, _ := captive(t, show, "two words=memory:1M", "memory:2M")
	lines := strings.Split(r.stdout, "\n")
	f := strings.Split(lines[0], "|")
	socket := f[3]
	want := "nbd+unix:///two%20words?socket=" + strings.ReplaceAll(socket, "/", "%2F")
	if f[0] != want || f[1] != want || f[2] != "" || f[4] != "two words" {
		t.Errorf("the environment is %q", lines[0])
	}
	if lines[1] != "what was typed" || lines[2] != "700" {
		t.Errorf("standard input and the mode of the directory: %q", lines[1:])
	}
	if _, err := os.Stat(strings.TrimSuffix(socket, "/sock")); !os.IsNotExist(err) {
		t.Errorf("the private directory is still there: %v", err)
	}

	r, _ = captive(t, show, "--listen", "tcp://127.0.0.1:0", "disk=memory:1M")
	f = strings.Split(strings.Split(r.stdout, "\n")[0], "|")
	if f[0] != "nbd://127.0.0.1:"+f[2]+"/disk" || f[3] != "" || f[4] != "disk" {
		t.Errorf("the environment is %q", f)
	}
}

func TestRunExitStatus(t *testing.T) {
	t.Parallel()
	for shell, code := range map[string]int{
		"exit 0": 0, "exit 7": 7, "kill -KILL $$": 128 + 9, "kill -TERM $$": 128 + 15, "no-such-command": 127,
		// Scripts run and end meanwhile, and each has its own status.
		"until test $(wc -l < runs) -ge 3; do sleep 0.1; done; exit 9": 9,
	} {
		r, rep := captive(t, shell, "memory:1M", "--exit-when-poll", "1", "--exit-when-script", "echo run >> runs; exit 0")
		if r.code != code || rep.Condition != "run=exited" || strings.Contains(r.stderr, "script failed") {
			t.Errorf("%s: exit code %d, report %+v\n%s", shell, r.code, rep, r.stderr)
		}
	}
}

// TestRunCutsClients: a command that went well doesn't hide how the drain went.
func TestRunCutsClients(t *testing.T) {
	t.Parallel()
	for status, code := range map[string]int{"0": report.ExitClientsCut, "7": 7} {
		dir := t.TempDir()
		s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{
			"--run", "until test -e " + dir + "/go; do sleep 0.1; done; exit " + status, "--drain-timeout", "0s"}})
		c := s.connect("tcp")
		c.read(0, 512)
		touch(t, dir+"/go")
		c.awaitClose()
		s.exits(code)
		if r := readReport(t, s.report); r.Condition != "run=exited" || r.ExitCode != report.ExitClientsCut {
			t.Errorf("the report is %+v", r)
		}
	}
}

// TestRunServerEndsFirst: the command is served to the end of its connection,
// and then told to end itself.
func TestRunServerEndsFirst(t *testing.T) {
	for _, tt := range []struct {
		name, shell string
		code        int
		logged      string
	}{
		{"ends", "touch started; sleep 60; exit 3", 128 + 15, "sent SIGTERM"},
		// A shell that gets the signal while it forks can lose it for the child, which
		// must not hold the server's standard error then.
		{"cleans up", "trap 'echo bye > cleaned; exit 5' TERM; sleep 60 2>&- & touch started; wait", 5, "sent SIGTERM"},
		{"doesn't listen", "trap '' TERM; touch started; while :; do sleep 1; done", 128 + 9, "it is killed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			stop := dir + "/stop"
			s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--run", "cd " + dir + "; " + tt.shell, "--exit-when-file-created", stop}})
			c := s.connect("tcp")
			eventually(t, "the command runs", func() bool {
				_, err := os.Stat(dir + "/started")
				return err == nil
			})
			touch(t, stop)
			s.awaitRefusal()
			c.read(0, 512)
			if !s.running() || strings.Contains(s.stderr.String(), tt.logged) {
				t.Error("the command is ended while clients are connected")
			}
			c.disconnect()
			s.exits(tt.code)
			contains(t, s.stderr.String(), tt.logged)
			if r := readReport(t, s.report); r.Condition != "file-created="+stop || !r.Clean() {
				t.Errorf("the report is %+v", r)
			}
			if b, _ := os.ReadFile(dir + "/cleaned"); tt.code == 5 && !bytes.Equal(b, []byte("bye\n")) {
				t.Errorf("the command left %q", b)
			}
		})
	}
}

// TestRunSignal: SIGTERM to the server drains it; the command's client is served
// until it leaves.
func TestRunSignal(t *testing.T) {
	t.Parallel()
	s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--run", "exec sleep 60"}})
	c := s.connect("unix")
	s.signal(syscall.SIGTERM)
	s.awaitRefusal()
	c.read(0, 512)
	c.disconnect()
	s.exits(128 + 15)
	if r := readReport(t, s.report); r.Condition != "signal=SIGTERM" || !r.Clean() {
		t.Errorf("the report is %+v", r)
	}
}

// TestRunSecondSignal: it cuts the end of the command short too.
func TestRunSecondSignal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--run", "trap '' TERM; touch " + dir + "/started; while :; do sleep 1; done"}})
	eventually(t, "the command runs", func() bool {
		_, err := os.Stat(dir + "/started")
		return err == nil
	})
	s.signal(syscall.SIGTERM)
	eventually(t, "the command is told to end", func() bool { return strings.Contains(s.stderr.String(), "sent SIGTERM") })
	s.signal(syscall.SIGTERM)
	s.exits(128 + 9)
	contains(t, s.stderr.String(), "a second signal: the command of --run is killed")
}

// TestRunNotAtAll: a condition is true at start.
func TestRunNotAtAll(t *testing.T) {
	t.Parallel()
	r, rep := captive(t, "echo ran; exit 7", "memory:1M", "--exit-when-script", "exit 88")
	if r.code != 0 || r.stdout != "" || rep.Condition != "script=exit 88" {
		t.Errorf("exit code %d, %q, report %+v", r.code, r.stdout, rep)
	}
}
