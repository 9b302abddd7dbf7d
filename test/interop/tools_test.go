package interop

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const mib = 1 << 20

// result is what a program did.
type result struct {
	code           int
	stdout, stderr string
}

// command is a program that is killed with the test, or when it takes too long.
func command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	cmd.Dir = t.TempDir()
	return cmd
}

// do runs a command to its end.
func do(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%q: %v", cmd.Args, err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// must runs a program that has to succeed, and returns its standard output.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	r := do(t, command(t, name, args...))
	if r.code != 0 {
		t.Fatalf("%s %q: exit code %d\n%s%s", name, args, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// transports runs a test over TCP and over a unix socket.
func transports(t *testing.T, test func(t *testing.T, transport string)) {
	for _, transport := range []string{"tcp", "unix"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			test(t, transport)
		})
	}
}

// extent is a part of an image.
type extent struct {
	offset, length int64
	data           bool
}

// sparse is how the images of newImage look: data and holes in turn, the last
// part a hole.
func sparse(size int64) []extent {
	return []extent{
		{0, size / 8, true},
		{size / 8, size / 4, false},
		{3 * size / 8, size / 8, true},
		{size / 2, size / 2, false},
	}
}

// newImage makes a file with the given extents.
func newImage(t *testing.T, name string, extents []extent) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, e := range extents {
		if e.data {
			if _, err := f.WriteAt(random(uint64(e.offset), e.length), e.offset); err != nil {
				t.Fatal(err)
			}
		} else if err := f.Truncate(e.offset + e.length); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// newHole makes an empty file.
func newHole(t *testing.T, name string, size int64) string {
	t.Helper()
	return newImage(t, name, []extent{{0, size, false}})
}

// random is content that is the same for the same seed.
func random(seed uint64, n int64) []byte {
	var key [32]byte
	key[0], key[1], key[2], key[3] = byte(seed), byte(seed>>8), byte(seed>>16), byte(seed>>24)
	p := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(p) // never fails
	return p
}

// sameFile compares two files.
func sameFile(t *testing.T, a, b string) {
	t.Helper()
	if r := do(t, command(t, "cmp", a, b)); r.code != 0 {
		t.Errorf("the files differ: %s%s", r.stdout, r.stderr)
	}
}

// allocated is the number of bytes that a file takes on the disk.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// Some file systems allocate only when they write back.
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// nbdsh runs a script of testdata with libnbd's Python bindings.
func nbdsh(t *testing.T, script string, args ...string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", script))
	if err != nil {
		t.Fatal(err)
	}
	return must(t, python, append([]string{path}, args...)...)
}

// contains checks for words in a program's output.
func contains(t *testing.T, out string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("%q is not in\n%s", w, out)
		}
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
