package interop

import (
	"bytes"
	"os"
	"strings"
	"syscall"
	"testing"
)

func (s *server) control(args ...string) result {
	s.t.Helper()
	return do(s.t, command(s.t, raceBinary, append([]string{"ctl", "--control", "unix://" + s.ctl}, args...)...))
}

func (s *server) mustControl(args ...string) {
	s.t.Helper()
	if r := s.control(args...); r.code != 0 || r.stdout != "" {
		s.t.Fatalf("ctl %q: exit code %d\n%s%s", args, r.code, r.stdout, r.stderr)
	}
}

// TestPause: while fio writes, and a load of clients that check all that they
// read, the file of a paused server stays as it is; then all go on.
func TestPause(t *testing.T) {
	t.Parallel()
	path := newHole(t, "target.img", 64*mib)
	s := start(t, config{volumes: []string{"target=" + path + ",access=read-write", "load=memory:16M"}})
	content := func() []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	job := converse(t, "fio", "--name=job", "--ioengine=nbd", "--uri="+s.uri("tcp"), "--iodepth=16", "--size=32M",
		"--rw=randwrite", "--bsrange=4k-64k", "--verify=crc32c", "--verify_fatal=1")
	newLoad(s, 4, "load").during(t, func() {
		eventually(t, "fio writes", func() bool { return s.status().Exports[0].BytesWritten > mib })
		for range 2 {
			s.mustControl("pause")
			before, st := content(), s.status()
			// A newcomer takes the time between the two copies.
			contains(t, must(t, "nbdinfo", "--no-content", s.uri("unix")), "export-size: 67108864")
			if !bytes.Equal(before, content()) {
				t.Error("the file of a paused server changes")
			}
			if !st.Paused {
				t.Errorf("the status is %+v", st)
			}
			s.mustControl("resume")
			eventually(t, "requests go on", func() bool { return s.status().Exports[1].BytesWritten > st.Exports[1].BytesWritten })
		}
	})
	for job.out.Scan() {
	}
	if err := job.cmd.Wait(); err != nil {
		t.Errorf("fio: %v\n%s", err, job.err.String())
	}
}

// TestPauseEndsByItself: what was asked for in the pause is answered, and who
// paused learns that his copy is worth nothing.
func TestPauseEndsByItself(t *testing.T) {
	t.Parallel()
	s := start(t, config{volumes: []string{"disk=memory:1M"}})
	c := s.connect("tcp")
	s.mustControl("pause", "--timeout", "1s")
	c.read(0, 4096)
	r := s.control("resume")
	if r.code != 1 || !strings.Contains(r.stderr, "the pause has ended before") {
		t.Errorf("resume: exit code %d, %s", r.code, r.stderr)
	}
	eventually(t, "the log says so", func() bool { return strings.Contains(s.stderr.String(), "its time is over") })
	c.disconnect()
}

// TestPauseAndDrain: SIGTERM ends a pause, and there is none in a drain.
func TestPauseAndDrain(t *testing.T) {
	t.Parallel()
	s := start(t, config{volumes: []string{"disk=memory:1M"}})
	c := s.connect("tcp")
	s.mustControl("pause", "--timeout", "1h")
	c.put(request(0, cmdRead, 1, 0, 512))
	s.signal(syscall.SIGTERM)
	if cookie, errno := c.reply(); cookie != 1 || errno != 0 {
		t.Errorf("the read is answered: cookie %d, error %d", cookie, errno)
	}
	c.get(512)
	r := s.control("pause")
	if r.code != 1 || !strings.Contains(r.stderr, "not paused: the server drains") {
		t.Errorf("pause in a drain: exit code %d, %s", r.code, r.stderr)
	}
	c.disconnect()
	s.ended(0, "signal=SIGTERM")
}
