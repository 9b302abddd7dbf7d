package interop

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// stdio starts a server on what may be three different files, and returns its
// report's path. Input and output are closed here: the server alone has them.
func stdio(t *testing.T, in, out, log *os.File, args ...string) (*exec.Cmd, string) {
	t.Helper()
	report := t.TempDir() + "/report.json"
	cmd := command(t, raceBinary, append([]string{"serve", "memory:1M", "--stdio", "--report", report}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	out.Close()
	return cmd, report
}

// logFile is for what a server logs; the test shows it if it fails.
func logFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		if b, _ := os.ReadFile(f.Name()); t.Failed() || bytes.Contains(b, []byte("DATA RACE")) {
			t.Errorf("the server's log:\n%s", b)
		}
	})
	return f
}

// endedStdio waits for the end of such a server.
func endedStdio(t *testing.T, cmd *exec.Cmd, report, condition string) {
	t.Helper()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if r := readReport(t, report); r.Condition != condition || !r.Clean() || r.ClientsCut != 0 {
		t.Errorf("the report is %+v, want the condition %s", r, condition)
	}
}

// twoPipes joins a client to what a server will have as its input and output.
func twoPipes(t *testing.T) (client *pipeConn, in, out *os.File) {
	t.Helper()
	in, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return &pipeConn{r, w}, in, out
}

// pipeConn is a net.Conn as far as rawClient needs one.
type pipeConn struct{ r, w *os.File }

func (p *pipeConn) Read(b []byte) (int, error)         { return p.r.Read(b) }
func (p *pipeConn) Write(b []byte) (int, error)        { return p.w.Write(b) }
func (p *pipeConn) Close() error                       { p.r.Close(); return p.w.Close() }
func (p *pipeConn) LocalAddr() net.Addr                { return nil }
func (p *pipeConn) RemoteAddr() net.Addr               { return nil }
func (p *pipeConn) SetDeadline(t time.Time) error      { return p.r.SetReadDeadline(t) }
func (p *pipeConn) SetReadDeadline(t time.Time) error  { return p.r.SetReadDeadline(t) }
func (p *pipeConn) SetWriteDeadline(t time.Time) error { return p.w.SetWriteDeadline(t) }

// TestStdioSocket: libnbd's nbd_connect_command gives one socket for both.
func TestStdioSocket(t *testing.T) {
	t.Parallel()
	report := t.TempDir() + "/report.json"
	nbdsh(t, "stdio.py", raceBinary, "serve", "memory:1M", "--stdio", "--report", report)
	if r := readReport(t, report); r.Condition != "stdio=closed" || !r.Clean() || r.BytesRead != mib || r.BytesWritten != mib {
		t.Errorf("the report is %+v", r)
	}
}

func TestStdioPipes(t *testing.T) {
	for name, leave := range map[string]func(*rawClient){
		"disconnects":     func(c *rawClient) { c.disconnect() },
		"closes both":     func(c *rawClient) { c.Close() },
		"closes its half": func(c *rawClient) { c.Conn.(*pipeConn).w.Close(); c.awaitClose() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, in, out := twoPipes(t)
			cmd, report := stdio(t, in, out, logFile(t), "--exit-when-last-client-leaves=1h")
			c := negotiate(t, conn)
			// Whatever else reads and writes there doesn't reach the client, and
			// doesn't keep the pipes open.
			for _, fd := range []string{"0", "1"} {
				if file, err := os.Readlink("/proc/" + itoa(int64(cmd.Process.Pid)) + "/fd/" + fd); file != os.DevNull {
					t.Errorf("descriptor %s is %s, %v", fd, file, err)
				}
			}
			data := random(1, 128<<10) // more than a pipe holds
			c.put(request(0, cmdWrite, 1, 0, uint32(len(data))), data)
			if cookie, errno := c.reply(); cookie != 1 || errno != 0 {
				t.Errorf("cookie %d, error %d", cookie, errno)
			}
			if !bytes.Equal(c.read(0, uint32(len(data))), data) {
				t.Error("what was read isn't what was written")
			}
			leave(c)
			endedStdio(t, cmd, report, "stdio=closed")
		})
	}
}

// TestStdioDrain: a drain that disconnects needs pipes on which the wait for a
// request can be cut short.
func TestStdioDrain(t *testing.T) {
	t.Parallel()
	conn, in, out := twoPipes(t)
	cmd, report := stdio(t, in, out, logFile(t), "--drain-policy", "disconnect", "--drain-grace", "0s")
	c := negotiate(t, conn)
	c.read(0, 512)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.awaitClose()
	c.Close()
	endedStdio(t, cmd, report, "signal=SIGTERM")
}

// TestStdioInetd: a superserver makes the client's socket standard error too.
func TestStdioInetd(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	socket, err := accepted.(*net.TCPConn).File()
	accepted.Close()
	if err != nil {
		t.Fatal(err)
	}
	// The script fails, which is logged, before and after the client comes.
	cmd, report := stdio(t, socket, socket, socket, "--exit-when-script", "exit 1", "--exit-when-poll", "1", "--log-level", "debug")
	c := negotiate(t, client)
	c.read(0, 512)
	c.disconnect()
	endedStdio(t, cmd, report, "stdio=closed")
}
