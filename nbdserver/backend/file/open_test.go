package file

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tree makes a directory with one of everything. Its parent is the second
// return value, with a file "secret" in it.
func tree(t *testing.T) (dir, parent string) {
	t.Helper()
	parent = t.TempDir()
	dir = filepath.Join(parent, "volume")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "sub"), 0o700))
	for _, name := range []string{"volume/disk.img", "volume/sub/disk.img", "secret"} {
		must(os.WriteFile(filepath.Join(parent, name), make([]byte, 1000), 0o600))
	}
	for name, target := range map[string]string{
		"inside":     "sub/disk.img",
		"sub/up":     "../disk.img",
		"outside":    "../secret",
		"absolute":   filepath.Join(parent, "secret"),
		"updir":      "..",
		"dangling":   "nothing",
		"loop":       "loop",
		"null":       "/dev/null",
		"round-trip": "../volume/disk.img",
	} {
		must(os.Symlink(target, filepath.Join(dir, name)))
	}
	must(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	// Beneath a directory as long as t.TempDir's the name may be too long to
	// bind to.
	t.Chdir(dir)
	l, err := net.Listen("unix", "socket")
	must(err)
	t.Cleanup(func() { l.Close() })
	return dir, parent
}

func TestOpen(t *testing.T) {
	dir, parent := tree(t)
	for _, c := range []struct {
		root, path string
		message    string // of the error; empty if there must be none
		is         error
	}{
		{dir, "disk.img", "", nil},
		{dir, "./sub/../disk.img", "", nil},
		{dir, "inside", "", nil},
		{dir, "sub/up", "", nil},
		{"", filepath.Join(dir, "disk.img"), "", nil},
		{"", filepath.Join(dir, "outside"), "", nil},
		{"", filepath.Join(dir, "absolute"), "", nil},

		{dir, "outside", "escapes", nil},
		{dir, "absolute", "escapes", nil},
		{dir, "null", "escapes", nil},
		{dir, "updir/secret", "escapes", nil},
		{dir, "round-trip", "escapes", nil},
		{dir, "../secret", "escapes", nil},
		{dir, "../volume/disk.img", "escapes", nil},
		{dir, filepath.Join(dir, "disk.img"), "escapes", nil},
		{dir, "missing.img", "no such file", fs.ErrNotExist},
		{dir, "dangling", "no such file", fs.ErrNotExist},
		{dir, "loop", "", unix.ELOOP},
		{dir, "disk.img/x", "not a directory", unix.ENOTDIR},
		{dir, ".", "is a directory: name the image file in it", nil},
		{dir, "sub", "is a directory: name the image file in it", nil},
		{dir, "fifo", "is a FIFO: name a regular file", nil},
		{dir, "socket", "is a socket: name a regular file", nil},
		{dir, "", "no path", nil},
		{filepath.Join(parent, "nowhere"), "disk.img", "no such file", fs.ErrNotExist},
		{filepath.Join(dir, "disk.img"), "disk.img", "not a directory", nil},
		{"", "", "no path", nil},
		{"", filepath.Join(dir, "missing.img"), "no such file", fs.ErrNotExist},
		{"", dir, "is a directory", nil},
		{"", filepath.Join(dir, "fifo"), "is a FIFO", nil},
		{"", filepath.Join(dir, "socket"), "is a socket", nil},
		{"", "/dev/null", "is a character device: name a regular file", nil},
	} {
		for _, readOnly := range []bool{false, true} {
			f, err := Open(c.path, Options{Root: c.root, ReadOnly: readOnly})
			if err == nil {
				if f.Info().Size != 1000 || f.Info().ReadOnly != readOnly {
					t.Errorf("%q in %q: Info is %+v", c.path, c.root, f.Info())
				}
				f.Close()
			}
			if wanted := c.message != "" || c.is != nil; wanted != (err != nil) {
				t.Errorf("%q in %q, ReadOnly %v: %v", c.path, c.root, readOnly, err)
				continue
			}
			if err == nil {
				continue
			}
			if s := err.Error(); !strings.Contains(s, c.message) || strings.Contains(s, "\n") {
				t.Errorf("%q in %q: %q doesn't say %q", c.path, c.root, s, c.message)
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%q in %q: %v isn't %v", c.path, c.root, err, c.is)
			}
		}
	}
}

func TestOpenWithoutPermission(t *testing.T) {
	path := image(t, t.TempDir(), 1000)
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		if os.Geteuid() == 0 {
			// Without CAP_DAC_OVERRIDE root is a user like others. The thread,
			// which loses it, ends with this goroutine.
			runtime.LockOSThread()
			if _, err := unix.SetfsuidRetUid(65534); err != nil {
				t.Error(err)
			}
		}
		_, err = Open(path, Options{})
	}()
	<-done
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "permission denied for user") {
		t.Errorf("got %v", err)
	}
}

func TestBlockSize(t *testing.T) {
	for n, want := range map[uint64]uint32{
		0: 4096, 512: 4096, 4096: 4096, 4097: 4096, 65536: 65536,
		3 << 20: 2 << 20, 32 << 20: 32 << 20, 1 << 40: 32 << 20,
	} {
		if got := blockSize(n); got != want {
			t.Errorf("blockSize(%d) = %d, not %d", n, got, want)
		}
	}
}

// TestQueueAttributes reads a made-up sysfs with a spinning disk that can zero, a
// partition of it and a disk that does neither.
func TestQueueAttributes(t *testing.T) {
	dir := t.TempDir()
	devices := map[string]string{"8:0": "sda", "8:1": "sda/sda1", "8:16": "sdb"}
	for _, name := range devices {
		if err := os.MkdirAll(filepath.Join(dir, "devices", name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for disk, content := range map[string]string{"sda": "1\n", "sdb": "0\n"} {
		queue := filepath.Join(dir, "devices", disk, "queue")
		if err := os.Mkdir(queue, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"rotational", "write_zeroes_max_bytes"} {
			if err := os.WriteFile(filepath.Join(queue, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for number, name := range devices {
		if err := os.Symlink(filepath.Join("devices", name), filepath.Join(dir, number)); err != nil {
			t.Fatal(err)
		}
	}
	for number, want := range map[[2]uint32]bool{{8, 0}: true, {8, 1}: true, {8, 16}: false, {0, 42}: false} {
		if got := rotational(dir, unix.Mkdev(number[0], number[1])); got != want {
			t.Errorf("device %d:%d is rotational: %v", number[0], number[1], got)
		}
		if got := zeroesByItself(dir, unix.Mkdev(number[0], number[1])); got != want {
			t.Errorf("device %d:%d zeroes by itself: %v", number[0], number[1], got)
		}
	}
}
