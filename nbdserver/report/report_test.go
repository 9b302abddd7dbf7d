package report

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func TestWriteAndParse(t *testing.T) {
	want := Report{Condition: "file-created=/run/nbdexport/stop", StartedAt: noon, FinishedAt: noon.Add(time.Second),
		ExitCode: ExitClientsCut, ClientsCut: 2, BytesRead: 1 << 63, BytesWritten: 1}
	path := filepath.Join(t.TempDir(), "report.json")
	if err := os.WriteFile(path, []byte(strings.Repeat("an older and longer file", 100)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := want.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Parse(b); err != nil || got != want {
		t.Errorf("%+v, %v; not %+v", got, err, want)
	}
	if want.Clean() || !(Report{}).Clean() {
		t.Error("clean is an exit code of 0, and nothing else")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A report is read from what the kubelet keeps of it.
func TestReportFitsATerminationMessage(t *testing.T) {
	r := Report{Condition: "script=" + strings.Repeat("ü\"", 50_000), StartedAt: noon, FinishedAt: noon, ExitCode: ExitFlushFailed,
		Error: strings.Repeat("\x00", 5000), BytesRead: 1<<64 - 1, BytesWritten: 1<<64 - 1}
	path := filepath.Join(t.TempDir(), "report.json")
	if err := r.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 4096 {
		t.Errorf("%d bytes", len(b))
	}
	got, err := Parse(b)
	if err != nil || got.Condition != Brief(r.Condition) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestBrief(t *testing.T) {
	short := strings.Repeat("x", 256)
	if got := Brief(short); got != short {
		t.Errorf("%q", got)
	}
	long := strings.Repeat("ü", 200)
	a, b := Brief(long+"a"), Brief(long+"b")
	if a == b || len(a) > 256 || !utf8.ValidString(a) {
		t.Errorf("%q and %q", a, b)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{"", "null", "{}", "[]", "nbdserver: a line of the log", `{"condition":"x"}`, `{"condition":"x","finishedAt":"0001-01-01T00:00:00Z"}`} {
		if r, err := Parse([]byte(s)); err == nil {
			t.Errorf("%q was read as %+v", s, r)
		}
	}
	if _, err := Parse([]byte(`{"condition":"x","finishedAt":"2026-11-20T12:00:00Z","newer":1}`)); err != nil {
		t.Errorf("a field from a newer server: %v", err)
	}
}

// Where the file can't be replaced it is written in place, as the mounted
// termination message of a container has to be.
func TestWriteInPlace(t *testing.T) {
	r := Report{Condition: "signal=SIGTERM", FinishedAt: noon}
	dir := t.TempDir()
	target := filepath.Join(dir, "message")
	if err := os.WriteFile(target, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(target)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// In /proc no file can be made, whoever tries.
	if err := r.WriteFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd())); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Parse(b); err != nil || got != r {
		t.Errorf("%q: %v", b, err)
	}
}

// What isn't a regular file is written to, and not replaced by one.
func TestWriteThroughALink(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := (Report{Condition: "x", FinishedAt: noon}).WriteFile(link); err != nil {
		t.Fatal(err)
	}
	if err := Clear(link); err != nil {
		t.Error(err)
	}
	if st, err := os.Lstat(link); err != nil || st.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link is %v now", st.Mode())
	}
	if b, err := os.ReadFile(target); err != nil || len(b) == 0 {
		t.Errorf("%q, %v", b, err)
	}
}

func TestClear(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	if err := Clear(path); err != nil {
		t.Errorf("nothing there: %v", err)
	}
	if err := os.WriteFile(path, []byte("an old one"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Clear(path); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"condition":"signal=SIGTERM","finishedAt":"2026-11-20T12:00:00Z","exitCode":3}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err == nil && (r.Condition == "" || r.FinishedAt.IsZero()) {
			t.Errorf("%q was read as %+v", b, r)
		}
	})
}
