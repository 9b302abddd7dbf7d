package interop

import (
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestOnce: a container that is restarted after its server ended with exit code
// 3 doesn't serve again, but says again what happened.
func TestOnce(t *testing.T) {
	t.Parallel()
	once := t.TempDir() + "/once.json"
	s := start(t, config{
		volumes: []string{"memory:1M"},
		flags:   []string{"--once", once, "--drain-grace", "0s", "--drain-timeout", "0s"},
	})
	c := s.connect("tcp")
	s.signal(syscall.SIGTERM)
	c.awaitClose()
	first := s.ended(3, "signal=SIGTERM")
	if got := readReport(t, once); got != first {
		t.Errorf("--once has %+v, --report %+v", got, first)
	}

	// The address is taken: to listen would fail.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	again := t.TempDir() + "/report.json"
	out := must(t, raceBinary, "serve", "memory:1M", "--print-uri", "--listen", "tcp://"+l.Addr().String(), "--once", once, "--report", again)
	if out != "" {
		t.Errorf("the second server prints %q", out)
	}
	if got := readReport(t, again); got != first {
		t.Errorf("the second server reports %+v, the first one %+v", got, first)
	}
}

// TestReportReplaces: nothing is left of a longer file that was there before.
func TestReportReplaces(t *testing.T) {
	t.Parallel()
	report := t.TempDir() + "/message"
	if err := os.WriteFile(report, []byte(strings.Repeat("old ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--report", report}})
	s.report = report
	s.signal(syscall.SIGTERM)
	s.ended(0, "signal=SIGTERM")
}

// TestReportElsewhere: a report that can't be written at the end is no reason to
// fail, and none to wait for ever.
func TestReportElsewhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/removed", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(dir+"/unread", 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir + "/removed/report", dir + "/unread"} {
		s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--report", path}})
		os.Remove(dir + "/removed")
		s.signal(syscall.SIGTERM)
		s.exits(0)
		contains(t, s.stderr.String(), "the final report could not be written", path)
	}
}

func TestPidfile(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/pid"
	s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--pidfile", path}})
	b, err := os.ReadFile(path) // it is there when the URI is printed
	if err != nil || string(b) != strconv.Itoa(s.cmd.Process.Pid)+"\n" {
		t.Errorf("the pidfile holds %q, %v", b, err)
	}
	s.signal(syscall.SIGTERM)
	s.wait(0)
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the pidfile is still there: %v", err)
	}
}

// TestSockets: what a server leaves of its sockets, and how the next one
// deals with it.
func TestSockets(t *testing.T) {
	t.Parallel()
	path := shortDir(t) + "/nbd.sock"
	args := config{volumes: []string{"memory:1M"}, flags: []string{"--listen", "unix://" + path}}

	killed := start(t, args)
	killed.signal(syscall.SIGKILL)
	<-killed.done
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("a killed server has removed its socket: %v", err)
	}
	s := start(t, args) // takes its place
	must(t, "nbdinfo", s.uri("extra"))
	if r := do(t, command(t, raceBinary, "serve", "memory:1M", "--listen", "unix://"+path)); r.code != 1 {
		t.Errorf("a third server: exit code %d, %s", r.code, r.stderr)
	}
	must(t, "nbdinfo", s.uri("extra"))
	s.signal(syscall.SIGTERM)
	s.wait(0)
	for _, socket := range []string{path, s.socket, s.ctl} {
		if _, err := os.Stat(socket); !os.IsNotExist(err) {
			t.Errorf("the socket %s is still there: %v", socket, err)
		}
	}
}
