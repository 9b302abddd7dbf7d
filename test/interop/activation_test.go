package interop

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestActivation: a client of libnbd runs the server, and ends it by SIGTERM.
func TestActivation(t *testing.T) {
	image := newImage(t, "disk.img", sparse(8*mib))
	for name, run := range map[string]func(t *testing.T, report string){
		"nbdinfo": func(t *testing.T, report string) {
			contains(t, must(t, "nbdinfo", "--", "[", raceBinary, "serve", image, "--report", report, "]"), "export-size: 8388608")
		},
		"nbdcopy": func(t *testing.T, report string) {
			out := t.TempDir() + "/out.img"
			must(t, "nbdcopy", "--", "[", raceBinary, "serve", image, "--report", report, "]", out)
			sameFile(t, image, out)
		},
		"nbdsh": func(t *testing.T, report string) {
			nbdsh(t, "activation.py", raceBinary, "serve", "memory:1M", "--report", report)
		},
		"nbdkit": func(t *testing.T, report string) {
			out := t.TempDir() + "/out.img"
			must(t, "nbdkit", "-U", "-", "nbd", "command="+raceBinary, "arg=serve", "arg="+image, "arg=--report", "arg="+report,
				"--run", `nbdcopy "$uri" '`+out+`'`)
			sameFile(t, image, out)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report := t.TempDir() + "/report.json"
			run(t, report)
			// nbdcopy and nbdkit don't wait for the server.
			eventually(t, "the server ends", func() bool {
				_, err := os.Stat(report)
				return err == nil
			})
			if r := readReport(t, report); r.Condition != "signal=SIGTERM" || !r.Clean() || r.ClientsCut != 0 {
				t.Errorf("the report is %+v", r)
			}
		})
	}
}

// activated is a server that gets descriptors from 3 on and is told of so many.
func activated(t *testing.T, listenFDs string, files []*os.File, args ...string) *exec.Cmd {
	t.Helper()
	script := `LISTEN_PID=$$ LISTEN_FDS=$0 LISTEN_FDNAMES=nbd exec "$@"`
	cmd := command(t, "/bin/sh", append([]string{"-c", script, listenFDs, raceBinary, "serve", "memory:1M"}, args...)...)
	cmd.ExtraFiles = files
	return cmd
}

// listening is a socket that listens, as a file.
func listening(t *testing.T, network, addr string) *os.File {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// socketName is what the links in /proc/PID/fd call a socket.
func socketName(t *testing.T, f *os.File) string {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	var statErr error
	if err := raw.Control(func(fd uintptr) { statErr = unix.Fstat(int(fd), &stat) }); err != nil || statErr != nil {
		t.Fatal(err, statErr)
	}
	return fmt.Sprintf("socket:[%d]", stat.Ino)
}

// TestActivationBySeveralSockets: all are served on, and nothing of them reaches
// a script, not even the one that runs before the server listens.
func TestActivationBySeveralSockets(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	files := []*os.File{listening(t, "tcp", "127.0.0.1:0"), listening(t, "unix", dir+"/sock")}
	stop := "test ! -e " + dir + "/stop || exit 88"
	cmd := activated(t, "2", files, "--print-uri", "--report", dir+"/report.json", "--exit-when-poll", "1",
		"--exit-when-script", "env >> "+dir+"/env; ls -l /proc/self/fd >> "+dir+"/fds; "+stop)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = logFile(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	uris := bufio.NewScanner(stdout)
	for _, scheme := range []string{"nbd://127.0.0.1:", "nbd+unix:///memory?socket="} {
		if !uris.Scan() || !strings.HasPrefix(uris.Text(), scheme) {
			t.Fatalf("the URI is %q, want %s", uris.Text(), scheme)
		}
		must(t, "nbdinfo", uris.Text())
	}
	touch(t, dir+"/stop")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	readReport(t, dir+"/report.json")
	// What ran the tests may have left sockets of its own open for all of us.
	for word, file := range map[string]string{"LISTEN_": "env", socketName(t, files[0]): "fds", socketName(t, files[1]): "fds"} {
		b, err := os.ReadFile(dir + "/" + file)
		if err != nil || len(b) == 0 || strings.Contains(string(b), word) {
			t.Errorf("the script has %s (%v):\n%s", word, err, b)
		}
	}
	if _, err := os.Stat(dir + "/sock"); err != nil {
		t.Errorf("the socket of the service manager is gone: %v", err)
	}
}

func TestActivationRefused(t *testing.T) {
	t.Parallel()
	file := func(fd int, err error) *os.File {
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "")
		t.Cleanup(func() { f.Close() })
		return f
	}
	good := listening(t, "tcp", "127.0.0.1:0")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	connected, peer := file(pair[0], err), file(pair[1], err)
	_ = peer
	datagram := file(syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0))

	for _, tt := range []struct {
		name  string
		fds   string
		files []*os.File
		args  []string
		want  []string
	}{
		{"pipe", "1", []*os.File{r}, nil, []string{"descriptor 3 isn't a socket"}},
		{"the second is connected", "2", []*os.File{good, connected}, nil, []string{"descriptor 4 doesn't listen", "Accept=no"}},
		{"datagrams", "1", []*os.File{datagram}, nil, []string{"descriptor 3 isn't a stream socket"}},
		{"fewer than said", "9", []*os.File{good}, nil, []string{"LISTEN_FDS: descriptor"}},
		{"more than there are", "9223372036854775807", []*os.File{good}, nil, []string{"LISTEN_FDS: descriptor"}},
		{"no number", "x", []*os.File{good}, nil, []string{`LISTEN_FDS is "x"`}},
		{"none", "0", []*os.File{good}, nil, []string{`LISTEN_FDS is "0"`}},
		{"with --listen", "1", []*os.File{good}, []string{"--listen", "tcp://127.0.0.1:0"}, []string{"--listen", "LISTEN_FDS"}},
		{"with --stdio", "1", []*os.File{good}, []string{"--stdio"}, []string{"--stdio", "LISTEN_FDS"}},
		{"with --run", "1", []*os.File{good}, []string{"--run", "true"}, []string{"--run", "LISTEN_FDS"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			refused(t, activated(t, tt.fds, tt.files, tt.args...), tt.want)
		})
	}
}

// TestActivationOfAnother: what was meant for a process with another id is left
// alone.
func TestActivationOfAnother(t *testing.T) {
	t.Parallel()
	s := start(t, config{volumes: []string{"memory:1M"}, env: []string{"LISTEN_FDS=1", "LISTEN_PID=1"}})
	must(t, "nbdinfo", s.uri("tcp"))
	s.signal(syscall.SIGTERM)
	s.wait(0)
}
