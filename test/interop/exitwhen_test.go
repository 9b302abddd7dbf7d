package interop

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// trigger makes a condition: the flags and files for the server, its name in
// the report, and what makes it happen.
type trigger struct {
	name string
	set  func(t *testing.T) (flags []string, files []*os.File, condition string, fire func())
}

// triggers are all exit conditions. Those that the kernel reports are noticed
// at once, though the default poll is 60 s.
var triggers = []trigger{
	{"file created", func(t *testing.T) ([]string, []*os.File, string, func()) {
		path := t.TempDir() + "/stop"
		return []string{"--exit-when-file-created", path}, nil, "file-created=" + path, func() { touch(t, path) }
	}},
	{"file deleted", func(t *testing.T) ([]string, []*os.File, string, func()) {
		path := t.TempDir() + "/alive"
		touch(t, path)
		return []string{"--exit-when-file-deleted", path}, nil, "file-deleted=" + path, func() { os.Remove(path) }
	}},
	{"pipe closed", func(t *testing.T) ([]string, []*os.File, string, func()) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		return []string{"--exit-when-pipe-closed", "3"}, []*os.File{r}, "pipe-closed=3", func() { w.Close() }
	}},
	{"FIFO closed", func(t *testing.T) ([]string, []*os.File, string, func()) {
		path := t.TempDir() + "/fifo" // the server makes it
		return []string{"--exit-when-pipe-closed", path}, nil, "pipe-closed=" + path, func() {
			w, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Error(err)
				return
			}
			w.Close()
		}
	}},
	{"process exits", func(t *testing.T) ([]string, []*os.File, string, func()) {
		cmd := exec.CommandContext(t.Context(), "cat")
		stdin, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stdin.Close(); _ = cmd.Wait() })
		pid := strconv.Itoa(cmd.Process.Pid)
		return []string{"--exit-when-process-exits", pid}, nil, "process-exits=" + pid, func() { stdin.Close() }
	}},
	{"process of a name exits", func(t *testing.T) ([]string, []*os.File, string, func()) {
		cat, err := exec.LookPath("cat")
		name := "nbd-" + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
		cmd := &exec.Cmd{Path: cat, Args: []string{"/opt/" + name}}
		stdin, perr := cmd.StdinPipe()
		if err = errors.Join(err, perr); err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stdin.Close(); _ = cmd.Wait() })
		return []string{"--exit-when-process-exits", "name=" + name}, nil, "process-exits=name=" + name, func() { stdin.Close() }
	}},
	{"script", func(t *testing.T) ([]string, []*os.File, string, func()) {
		path := t.TempDir() + "/done"
		script := "test ! -e " + path + " || exit 88"
		return []string{"--exit-when-poll", "1", "--exit-when-script", script}, nil, "script=" + script, func() { touch(t, path) }
	}},
}

func TestExitConditions(t *testing.T) {
	for _, tt := range triggers {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			flags, files, condition, fire := tt.set(t)
			s := start(t, config{volumes: []string{"memory:1M"}, flags: flags, files: files})
			a, b := s.connect("tcp"), s.connect("unix")
			a.read(0, 512)
			fire()
			s.awaitRefusal()
			a.read(0, 512)
			b.read(0, 512)
			a.disconnect()
			b.read(0, 512)
			if st := s.status(); st.Phase != "Draining" || st.Condition != condition || st.Connections != 1 {
				t.Errorf("the status is %+v", st)
			}
			b.disconnect()
			s.ended(0, condition)
		})
	}
}

// TestExitConditionIdle: the same without a client.
func TestExitConditionIdle(t *testing.T) {
	for _, tt := range triggers {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			flags, files, condition, fire := tt.set(t)
			s := start(t, config{volumes: []string{"memory:1M"}, flags: flags, files: files})
			fire()
			s.ended(0, condition)
		})
	}
}

// TestFirstConditionWins gives the server one condition of each kind.
func TestFirstConditionWins(t *testing.T) {
	t.Parallel()
	var flags []string
	var files []*os.File
	var names []string
	var fire []func()
	for _, tr := range triggers {
		fl, fi, name, f := tr.set(t)
		flags, files = append(flags, fl...), append(files, fi...)
		names, fire = append(names, name), append(fire, f)
	}
	s := start(t, config{volumes: []string{"memory:1M"}, flags: flags, files: files})
	c := s.connect("tcp")
	const first = 4 // the process
	fire[first]()
	s.awaitRefusal()
	for i, f := range fire {
		if i != first && triggers[i].name != "FIFO closed" { // nobody reads it any more
			f()
		}
	}
	c.read(0, 512)
	c.disconnect()
	s.ended(0, names[first])
}

// TestConditionUndone: an event that was undone at once has happened.
func TestConditionUndone(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/stop"
	s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--exit-when-file-created", path}})
	touch(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s.ended(0, "file-created="+path)
}

// TestAlreadyTrue: the port is never opened, which is shown by a port that is
// taken.
func TestAlreadyTrue(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	dir := t.TempDir()
	touch(t, dir+"/there")
	tests := map[string][]string{
		"file-created=" + dir + "/there":           {"--exit-when-file-created", dir + "/there"},
		"file-deleted=" + dir + "/gone":            {"--exit-when-file-deleted", dir + "/gone"},
		"pipe-closed=3":                            {"--exit-when-pipe-closed", "3"},
		"script=exit 88":                           {"--exit-when-script", "exit 88"},
		`script={"command":["sh","-c","exit 88"]}`: {"--exit-when-script", `{"command":["sh","-c","exit 88"]}`},
		"deadline=2001-01-01T00:00:00Z":            {"--exit-when-deadline", "2001-01-01T00:00:00Z"},
	}
	for condition, flags := range tests {
		t.Run(condition, func(t *testing.T) {
			t.Parallel()
			closed, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer closed.Close()
			w.Close()
			report := t.TempDir() + "/report.json"
			args := append([]string{"serve", "memory:1M", "--listen", "tcp://" + l.Addr().String(), "--print-uri", "--report", report}, flags...)
			cmd := command(t, raceBinary, args...)
			cmd.ExtraFiles = []*os.File{closed}
			if r := do(t, cmd); r.code != 0 || r.stdout != "" {
				t.Errorf("exit code %d, %s%s", r.code, r.stdout, r.stderr)
			}
			if r := readReport(t, report); r.Condition != condition || !r.Clean() {
				t.Errorf("the report is %+v", r)
			}
		})
	}
}

// TestSignalDuringCheck: a script is slow at start, and SIGTERM comes.
func TestSignalDuringCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := command(t, raceBinary, "serve", "memory:1M", "--report", dir+"/report.json",
		"--exit-when-script", "touch "+dir+"/runs; exec sleep 20")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the script runs", func() bool {
		_, err := os.Stat(dir + "/runs")
		return err == nil
	})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if r := readReport(t, dir+"/report.json"); r.Condition != "signal=SIGTERM" {
		t.Errorf("the report is %+v", r)
	}
}
