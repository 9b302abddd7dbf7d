// Package interop runs the real nbdserver binary as a process, against the NBD
// clients that people use: libnbd's, qemu's, fio, nbdkit and nbd-client. What
// only a process shows is tested here too: signals, exit codes, exit
// conditions, the report, a kill -9.
//
// A client that isn't installed fails the tests: hack/deps.sh interop installs
// them.
package interop

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
)

// python is the one that Debian's python3-libnbd belongs to, which need not be
// the first one on the PATH.
const python = "/usr/bin/python3"

// The binary under test, with the race detector and without: its memory is
// nobody's measure.
var raceBinary, plainBinary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	// The race detector would have every process sleep for a second at its end.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	if err := checkTools(); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "interop")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Chmod(dir, 0o755) // one test runs the binary as another user
	}
	if err == nil {
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		return 1
	}
	// Most of these tests wait for a clock or for other processes. -parallel on
	// the command line has the last word.
	if err := flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0))); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		return 1
	}
	return m.Run()
}

// checkTools tells which Debian package is missing.
func checkTools() error {
	for _, tool := range []struct{ program, pkg string }{
		{"nbdinfo", "libnbd-bin"},
		{"nbdcopy", "libnbd-bin"},
		{"nbdkit", "nbdkit"},
		{"qemu-img", "qemu-utils"},
		{"qemu-io", "qemu-utils"},
		{sbin("nbd-client"), "nbd-client"},
		{sbin("filefrag"), "e2fsprogs"},
		{"fio", "fio"},
		{promtool(), "prometheus"},
	} {
		if _, err := exec.LookPath(tool.program); err != nil {
			return fmt.Errorf("%s is missing, of the Debian package %s: run hack/deps.sh interop", tool.program, tool.pkg)
		}
	}
	if out, err := exec.Command(python, "-c", "import nbd").CombinedOutput(); err != nil {
		return fmt.Errorf("%s can't import nbd, of the Debian package python3-libnbd: run hack/deps.sh interop (%w: %s)", python, err, out)
	}
	return nil
}

// sbin finds a program in a folder that the PATH of a user often lacks.
func sbin(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return "/usr/sbin/" + name
}

// promtool finds the program where hack/deps.sh puts it.
func promtool() string {
	if path, err := exec.LookPath("promtool"); err == nil {
		return path
	}
	cache := os.Getenv("NBDEXPORT_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "promtool"
		}
		cache = filepath.Join(user, "nbdexport")
	}
	return filepath.Join(cache, "bin", "promtool")
}

func build(dir string) error {
	raceBinary, plainBinary = filepath.Join(dir, "nbdserver-race"), filepath.Join(dir, "nbdserver")
	for _, args := range [][]string{
		{"build", "-race", "-o", raceBinary},
		{"build", "-o", plainBinary},
	} {
		cmd := exec.Command("go", append(args, "github.com/nbdexport/nbdexport/cmd/nbdserver")...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %v: %w\n%s", args, err, out)
		}
	}
	return nil
}
