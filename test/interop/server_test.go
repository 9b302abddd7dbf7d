package interop

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver"
	"github.com/nbdexport/nbdexport/nbdserver/report"
)

// patience is how long anything may take that should happen at once: far more
// than it takes on a busy machine, far less than the timeouts that would let a
// test pass which shouldn't.
const patience = 20 * time.Second

// config says how a server is started. The zero value serves nothing.
type config struct {
	volumes []string
	flags   []string
	files   []*os.File // inherited as descriptors 3 and on
	env     []string   // besides the test's own
	plain   bool       // without the race detector
}

// server is a running nbdserver.
type server struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr syncBuffer
	done   chan struct{} // closed when the process has ended
	report string        // path
	socket string        // path
	ctl    string        // path of the control socket
	// uris of the volumes by transport; "extra" are those of a third listener,
	// given with a flag.
	uris map[string][]string
}

// syncBuffer can be read while a process writes to it.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// shortDir is a directory for sockets, whose paths may not be as long as those
// of t.TempDir.
func shortDir(t *testing.T) string {
	t.Helper()
	parent := os.TempDir()
	if len(parent) > 64 {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "nbd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// start runs a server on a TCP port and a unix socket, and waits until it
// listens. It is killed at the end of the test if it still runs.
func start(t *testing.T, c config) *server {
	t.Helper()
	dir := shortDir(t)
	s := &server{
		t:      t,
		done:   make(chan struct{}),
		report: filepath.Join(dir, "report.json"),
		socket: filepath.Join(dir, "nbd.sock"),
		ctl:    filepath.Join(dir, "ctl.sock"),
		uris:   map[string][]string{},
	}
	binary := raceBinary
	if c.plain {
		binary = plainBinary
	}
	args := []string{"serve", "--listen", "tcp://127.0.0.1:0", "--listen", "unix://" + s.socket, "--print-uri",
		"--control", "unix://" + s.ctl, "--report", s.report}
	args = append(append(args, c.flags...), c.volumes...)
	s.cmd = exec.Command(binary, args...)
	s.cmd.Stderr = &s.stderr
	// Not even a test that panics or runs out of time leaves a server behind.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.cmd.ExtraFiles = c.files
	s.cmd.Env = append(os.Environ(), c.env...)
	stdout, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	s.cmd.Stdout = w
	err = s.cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = s.cmd.Wait() // the exit code is looked at by wait
		close(s.done)
	}()
	t.Cleanup(s.cleanup)
	if err := stdout.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	transports := []string{"tcp", "unix"}
	if slices.Contains(c.flags, "--listen") {
		transports = append(transports, "extra")
	}
	for _, transport := range transports {
		for range c.volumes {
			if !lines.Scan() {
				t.Fatalf("the server doesn't listen: %v\n%s", lines.Err(), s.stderr.String())
			}
			s.uris[transport] = append(s.uris[transport], lines.Text())
		}
	}
	return s
}

func (s *server) cleanup() {
	_ = s.cmd.Process.Kill() // it may have ended already
	<-s.done
	out := s.stderr.String()
	if strings.Contains(out, "DATA RACE") || strings.Contains(out, "panic") {
		s.t.Error("the server raced or panicked")
	}
	if s.t.Failed() {
		s.t.Logf("stderr of %q:\n%s", s.cmd.Args, out)
	}
}

// uri of the first volume.
func (s *server) uri(transport string) string { return s.uris[transport][0] }

// tcp is HOST:PORT.
func (s *server) tcp() string {
	_, rest, _ := strings.Cut(s.uri("tcp"), "://") // nbd or nbds
	hostport, _, _ := strings.Cut(rest, "/")
	return hostport
}

func (s *server) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) running() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// wait waits for the end and checks the exit code, in the report too.
func (s *server) wait(code int) report.Report {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(patience):
		s.t.Fatal("the server doesn't end")
	}
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Fatalf("exit code %d, want %d", got, code)
	}
	r := readReport(s.t, s.report)
	if r.ExitCode != code {
		s.t.Errorf("the report has exit code %d, the process %d", r.ExitCode, code)
	}
	return r
}

func readReport(t *testing.T, path string) report.Report {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := report.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ended is wait for a report that names a condition.
func (s *server) ended(code int, condition string) report.Report {
	s.t.Helper()
	r := s.wait(code)
	if r.Condition != condition {
		s.t.Errorf("the report names the condition %q, want %q", r.Condition, condition)
	}
	return r
}

// status asks the control socket.
func (s *server) status() nbdserver.Status {
	s.t.Helper()
	out := must(s.t, raceBinary, "ctl", "--control", "unix://"+s.ctl, "status")
	var st nbdserver.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		s.t.Fatalf("%v in %s", err, out)
	}
	return st
}

// awaitRefusal waits until newcomers are refused on both transports.
func (s *server) awaitRefusal() {
	s.t.Helper()
	for network, addr := range map[string]string{"tcp": s.tcp(), "unix": s.socket} {
		eventually(s.t, "newcomers are refused at "+addr, func() bool {
			c, err := net.Dial(network, addr)
			if err == nil {
				c.Close()
				return false
			}
			return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
		})
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it didn't happen that %s", what)
		}
	}
}
