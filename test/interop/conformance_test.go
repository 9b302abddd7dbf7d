package interop

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// What nbdkit-exitwhen-filter(1), nbdkit_shutdown(3), nbdkit_disconnect(3) and
// nbd_aio_disconnect(3) say, where another test doesn't show it already;
// docs/conformance.md has the list.

// TestConformanceList: the tests that the documents name are there, and each
// lists at least so many. What stands behind "interop" is one of these.
func TestConformanceList(t *testing.T) {
	here := testsIn(t, ".")
	elsewhere := testsIn(t, "../../nbdserver", "../../nbdserver/exitwhen", "../../nbdserver/certificates", "../../nbdserver/wire", "../../cmd/nbdserver")
	for doc, least := range map[string]int{"conformance.md": 40, "nbdserver.md": 60} {
		text, err := os.ReadFile("../../docs/" + doc)
		if err != nil {
			t.Fatal(err)
		}
		names := 0
		for line := range strings.Lines(string(text)) {
			all, ours, isOurs := strings.Cut(line, "interop Test")
			for _, name := range testName.FindAllString(all, -1) {
				names++
				if !elsewhere[name] && (isOurs || !here[name]) {
					t.Errorf("%s: %s is not there", doc, name)
				}
			}
			if !isOurs {
				continue
			}
			for _, name := range testName.FindAllString("Test"+ours, -1) {
				names++
				if !here[name] {
					t.Errorf("%s: %s is not in test/interop", doc, name)
				}
			}
		}
		if names < least {
			t.Errorf("%s names %d tests", doc, names)
		}
	}
}

var (
	testName = regexp.MustCompile(`\b(Test|Fuzz)[A-Z]\w+`)
	testFunc = regexp.MustCompile(`(?m)^func ((Test|Fuzz)\w+)\(`)
)

// testsIn are the names of the tests in folders.
func testsIn(t *testing.T, dirs ...string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, dir := range dirs {
		files, _ := filepath.Glob(dir + "/*_test.go") // the pattern is right
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range testFunc.FindAllSubmatch(b, -1) {
				names[string(m[1])] = true
			}
		}
	}
	return names
}

// TestScriptCodes: what each end of a script does, with a client connected.
func TestScriptCodes(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		logged       string // empty for nothing
	}{
		{"0", "exit 0", ""},
		{"1", "exit 1", "it exited with code 1"},
		{"87", "exit 87", "it exited with code 87"},
		{"89", "exit 89", "code 89, which is reserved"},
		{"255", "exit 255", "code 255, which is reserved"},
		{"killed by a signal", "kill -SEGV $$", "signal: segmentation fault"},
		{"hangs past its timeout", "exec sleep 1000", "it was killed after 1s, its timeout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			runs := t.TempDir() + "/runs"
			script := fmt.Sprintf(`{"command":["/bin/sh","-c","echo run >> %s; %s"],"timeoutSeconds":1}`, runs, tt.script)
			s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--exit-when-poll", "1", "--exit-when-script", script}})
			c := s.connect("tcp")
			// The first run was before the server listened. When the third one
			// has begun, the second one is over.
			eventually(t, "the script runs again and again", func() bool {
				b, _ := os.ReadFile(runs)
				return bytes.Count(b, []byte("\n")) >= 3
			})
			must(t, "nbdinfo", s.uri("tcp"))
			c.read(0, 512)
			if st := s.status(); st.Phase != "Serving" {
				t.Errorf("the status is %+v", st)
			}
			if out := s.stderr.String(); strings.Contains(out, "the script failed") != (tt.logged != "") || !strings.Contains(out, tt.logged) {
				t.Errorf("logged %q, want %q in it", out, tt.logged)
			}
			s.signal(syscall.SIGTERM)
			c.disconnect()
			s.ended(0, "signal=SIGTERM")
		})
	}
	t.Run("88", func(t *testing.T) {
		t.Parallel()
		done := t.TempDir() + "/done"
		script := "test ! -e " + done + " || exit 88"
		s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--exit-when-poll", "1", "--exit-when-script", script}})
		c := s.connect("tcp")
		touch(t, done)
		s.awaitRefusal()
		c.read(0, 512)
		c.disconnect()
		s.ended(0, "script="+script)
	})
}

// TestSlowScriptDelaysNobody: clients come, work and leave while a script runs,
// and its answer counts when it comes.
func TestSlowScriptDelaysNobody(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mkfifo(dir+"/answer", 0o600); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("cd %s; test -e first || { touch first; exit 0; }; touch second; read code < answer; exit $code", dir)
	s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--exit-when-poll", "1", "--exit-when-script", script}})
	eventually(t, "the script runs a second time", func() bool {
		_, err := os.Stat(dir + "/second")
		return err == nil
	})
	for range 3 {
		must(t, "nbdinfo", s.uri("tcp"))
	}
	c := s.connect("unix")
	c.read(0, 512)
	// It opens only while the script reads: it ran all the time.
	w, err := os.OpenFile(dir+"/answer", os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(w, 88)
	w.Close()
	s.awaitRefusal()
	c.read(0, 512)
	c.disconnect()
	s.ended(0, "script="+script)
}

// TestPipeIsNotRead: what was written to the pipe before it was closed doesn't
// hide the end, and stays in it.
func TestPipeIsNotRead(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const unread = "this stays"
	if _, err := w.WriteString(unread); err != nil {
		t.Fatal(err)
	}
	s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--exit-when-pipe-closed", "3"}, files: []*os.File{r}})
	c := s.connect("tcp")
	c.read(0, 512)
	if st := s.status(); st.Phase != "Serving" {
		t.Errorf("the status is %+v", st)
	}
	w.Close()
	s.awaitRefusal()
	c.disconnect()
	s.ended(0, "pipe-closed=3")
	if left, err := io.ReadAll(r); err != nil || string(left) != unread {
		t.Errorf("in the pipe there is %q, %v", left, err)
	}
}

// TestZombieHasExited: nobody waits for the process.
func TestZombieHasExited(t *testing.T) {
	t.Parallel()
	cmd := command(t, "cat")
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	pid := itoa(int64(cmd.Process.Pid))
	s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--exit-when-process-exits", pid}})
	stdin.Close()
	s.ended(0, "process-exits="+pid)
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil || !bytes.Contains(stat, []byte(") Z ")) {
		t.Errorf("the process isn't a zombie: %s, %v", stat, err)
	}
	// The zombie is there at the start of another server, which doesn't serve.
	report := t.TempDir() + "/report.json"
	must(t, raceBinary, "serve", "memory:1M", "--listen", "tcp://127.0.0.1:0", "--report", report, "--exit-when-process-exits", pid)
	if r := readReport(t, report); r.Condition != "process-exits="+pid {
		t.Errorf("the report is %+v", r)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestNoConditions: a server without them goes on whatever its clients do.
func TestNoConditions(t *testing.T) {
	t.Parallel()
	s := start(t, config{volumes: []string{"memory:1M"}})
	for range 2 {
		c := s.connect("tcp")
		c.read(0, 512)
		c.disconnect()
		s.connect("unix").Close()
		must(t, "nbdinfo", s.uri("unix"))
	}
	if st := s.status(); st.Phase != "Serving" || st.Condition != "" {
		t.Errorf("the status is %+v", st)
	}
	s.signal(syscall.SIGTERM)
	s.ended(0, "signal=SIGTERM")
}

// TestAioDisconnect is nbd_aio_disconnect(3), by libnbd.
func TestAioDisconnect(t *testing.T) {
	transports(t, func(t *testing.T, transport string) {
		target := newHole(t, "target.img", 16*mib)
		s := start(t, config{volumes: []string{target + ",access=read-write"}})
		nbdsh(t, "disconnect.py", s.uri(transport))
		s.signal(syscall.SIGTERM)
		s.wait(0)
	})
}

// TestNothingAfterDisconnect: what a client sends behind its disconnect isn't
// looked at.
func TestNothingAfterDisconnect(t *testing.T) {
	t.Parallel()
	target := newHole(t, "target.img", mib)
	s := start(t, config{volumes: []string{target + ",access=read-write"}})
	c := s.connect("tcp")
	c.put(request(0, cmdWrite, 1, 0, 5), []byte("first"), request(0, cmdDisc, 2, 0, 0),
		request(0, cmdWrite, 3, 0, 6), []byte("second"))
	if cookie, errno := c.reply(); cookie != 1 || errno != 0 {
		t.Errorf("cookie %d, error %d", cookie, errno)
	}
	c.awaitClose()
	c = s.connect("tcp")
	if got := string(c.read(0, 6)); got != "first\x00" {
		t.Errorf("the volume begins with %q", got)
	}
	c.disconnect()
	s.signal(syscall.SIGTERM)
	s.wait(0)
}
