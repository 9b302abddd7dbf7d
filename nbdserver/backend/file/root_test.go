//go:build root

// These tests make file systems and loop devices: they need root, and the
// command losetup of util-linux.

package file

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/backend/backendtest"
)

// tmpfs mounts an empty file system in memory for the time of the test.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("umount: %v", err)
		}
	})
	return dir
}

// loop makes a loop device over a file and returns its path.
func loop(t testing.TB, image string, options ...string) string {
	t.Helper()
	out, err := exec.Command("losetup", append(options, "--find", "--show", image)...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("losetup: %v: %s", err, exit.Stderr)
		}
		t.Fatalf("losetup: %v", err)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach: %v: %s", err, out)
		}
	})
	return device
}

// resizeLoop gives a loop device, and the file below it, another size.
func resizeLoop(t *testing.T, device string, size uint64) {
	t.Helper()
	if err := os.Truncate(backingFile(t, device), int64(size)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("losetup", "--set-capacity", device).CombinedOutput(); err != nil {
		t.Fatalf("losetup --set-capacity: %v: %s", err, out)
	}
}

func backingFile(t *testing.T, device string) string {
	t.Helper()
	b, err := os.ReadFile("/sys/block/" + filepath.Base(device) + "/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(b), "\n")
}

// TestTmpfs runs the suite where files may be as large as an offset allows, and
// FALLOC_FL_ZERO_RANGE is unknown.
func TestTmpfs(t *testing.T) {
	dir := tmpfs(t, "size=256m")
	k := kind(func(t *testing.T) string {
		// Each volume is gone before the next comes.
		sub, err := os.MkdirTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(sub) })
		return sub
	})
	backendtest.Run(t, k)
}

// loopKind tests loop devices, with the options of losetup given.
func loopKind(options ...string) backendtest.Kind {
	return backendtest.Kind{
		Open: func(t *testing.T, size uint64) backend.Backend {
			return open(t, loop(t, image(t, t.TempDir(), size), options...), Options{})
		},
		Reopen: func(t *testing.T, closed backend.Backend) backend.Backend {
			return open(t, closed.(*File).path, Options{})
		},
		ReadOnly: func(t *testing.T, content []byte) backend.Backend {
			path := image(t, t.TempDir(), 0)
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			return open(t, loop(t, path, append(options, "--read-only")...), Options{ReadOnly: true})
		},
		Resize: func(t *testing.T, b backend.Backend, size uint64) {
			resizeLoop(t, b.(*File).path, size)
		},
		SizeStep: 512,
		MaxSize:  64 << 30,
	}
}

func TestLoopDevice(t *testing.T) { backendtest.Run(t, loopKind()) }

func TestLoopDeviceWithLargeSectors(t *testing.T) {
	k := loopKind("--sector-size=4096")
	k.SizeStep = 4096
	k.MaxSize = 32 << 20
	backendtest.Run(t, k)
}

// TestDeviceWithoutZeroing runs the suite on what a device is like that can
// neither discard nor zero.
func TestDeviceWithoutZeroing(t *testing.T) {
	k := loopKind()
	plain := k.Open
	k.Open = func(t *testing.T, size uint64) backend.Backend {
		f := plain(t, size).(*File)
		f.punch.unsupported.Store(true)
		f.zeroRange.unsupported.Store(true)
		f.noDiscard.Store(true)
		return f
	}
	k.MaxSize = 128 << 20
	k.Reopen = nil
	k.ReadOnly = nil
	backendtest.Run(t, k)
}

func TestDevice(t *testing.T) {
	ctx := t.Context()
	const size = 8 << 20
	path := image(t, t.TempDir(), size)
	f := open(t, loop(t, path), Options{})
	t.Cleanup(func() { f.Close() })
	under := open(t, path, Options{ReadOnly: true})
	t.Cleanup(func() { under.Close() })

	if info := f.Info(); info.Size != size || info.PreferredBlockSize != 4096 || info.ReadOnly {
		t.Errorf("Info is %+v", info)
	}
	list, err := f.Extents(ctx, 100, 5000, 10)
	if err != nil || len(list) != 1 || list[0] != (backend.Extent{Length: 5000}) {
		t.Errorf("Extents: %+v, %v", list, err)
	}

	allocated := func() int64 {
		t.Helper()
		if err := f.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(under.fd, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	full := func() {
		t.Helper()
		p := make([]byte, size)
		for i := range p {
			p[i] = 1
		}
		if err := f.WriteAt(ctx, p, 0); err != nil {
			t.Fatal(err)
		}
	}
	full()
	before := allocated()
	if err := f.WriteZeroes(ctx, 0, size, 0); err != nil || allocated() < before {
		t.Errorf("zeroing without mayTrim: %d of %d bytes are left allocated (%v)", allocated(), before, err)
	}
	if err := f.WriteZeroes(ctx, 100, size-200, backend.MayTrim); err != nil || allocated() > 64<<10 {
		t.Errorf("zeroing with mayTrim: %d bytes are left allocated (%v)", allocated(), err)
	}
	full()
	if err := f.Trim(ctx, 100, size-200); err != nil || allocated() > 64<<10 {
		t.Errorf("trim: %d bytes are left allocated (%v)", allocated(), err)
	}
	if f.punch.unsupported.Load() || f.zeroRange.unsupported.Load() || f.noDiscard.Load() {
		t.Error("a loop device discards and zeroes, and this one is thought not to")
	}
}

// TestFastDevice checks that a device zeroes fast by punching a hole, and only
// so; and that nothing is lost that isn't flushed yet where it can't.
func TestFastDevice(t *testing.T) {
	const size = 4 << 20
	ctx := t.Context()
	f := open(t, loop(t, image(t, t.TempDir(), size)), Options{})
	t.Cleanup(func() { f.Close() })
	if !f.punchKnown {
		t.Error("a loop device zeroes by itself, and this one is thought not to")
	}
	check := func(what string, flags backend.ZeroFlags, off, length uint64, want error) {
		t.Helper()
		content := bytes.Repeat([]byte{1}, size)
		if err := f.WriteAt(ctx, content, 0); err != nil {
			t.Fatal(err)
		}
		if err := f.WriteZeroes(ctx, off, length, flags|backend.Fast); err != want {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
		if want == nil {
			clear(content[off : off+length])
		}
		got := make([]byte, size)
		if err := f.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: the content isn't what it should be (%v)", what, err)
		}
	}
	check("a hole", backend.MayTrim, 100, size-200, nil)
	check("no hole", 0, 100, size-200, backend.ErrNotFast)
	check("two pages by hand", 0, 4096+1, 4096, nil)
	f.punchKnown = false
	check("who knows", backend.MayTrim, 100, size-200, backend.ErrNotFast)
	check("two pages by hand", backend.MayTrim, 4096+1, 4096, nil)
	f.punchKnown = true
	f.punch.unsupported.Store(true)
	check("a command that it turned out not to know", backend.MayTrim, 0, size, backend.ErrNotFast)
}

func TestReadOnlyDevice(t *testing.T) {
	device := loop(t, image(t, t.TempDir(), 1<<20), "--read-only")
	_, err := Open(device, Options{})
	if err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("got %v", err)
	}
}

// TestDeviceLinks opens a device through a link, as those of /dev/disk/by-id,
// and a device node inside a root directory.
func TestDeviceLinks(t *testing.T) {
	device := loop(t, image(t, t.TempDir(), 1<<20))
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(device, link); err != nil {
		t.Fatal(err)
	}
	f := open(t, link, Options{})
	if f.Info().Size != 1<<20 {
		t.Errorf("Info is %+v", f.Info())
	}
	f.Close()
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(dir, "node"), unix.S_IFBLK|0o600, int(st.Rdev)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open("node", Options{Root: dir}); err == nil || !strings.Contains(err.Error(), "device node") {
		t.Errorf("a device node inside a root: %v", err)
	}
}

func TestNoSpace(t *testing.T) {
	ctx := t.Context()
	f := open(t, image(t, tmpfs(t, "size=1m"), 4<<20), Options{})
	t.Cleanup(func() { f.Close() })
	for what, do := range map[string]func() error{
		"WriteAt":     func() error { return f.WriteAt(ctx, make([]byte, 4<<20), 0) },
		"WriteZeroes": func() error { return f.WriteZeroes(ctx, 0, 4<<20, 0) },
		"WriteZeroes by writing": func() error {
			f.reserve.unsupported.Store(true)
			defer f.reserve.unsupported.Store(false)
			return f.WriteZeroes(ctx, 0, 4<<20, 0)
		},
	} {
		if err := do(); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v", what, err)
		}
		if err := f.WriteZeroes(ctx, 0, 4<<20, backend.MayTrim); err != nil {
			t.Errorf("WriteZeroes with mayTrim where nothing is free: %v", err)
		}
		if err := f.WriteAt(ctx, make([]byte, 4096), 0); err != nil {
			t.Errorf("a write after space was freed: %v", err)
		}
	}
}

func TestReadOnlyFileSystem(t *testing.T) {
	dir := tmpfs(t, "size=1m")
	path := image(t, dir, 8192)
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); !errors.Is(err, unix.EROFS) || !strings.HasSuffix(err.Error(), "export it read-only") {
		t.Errorf("got %v", err)
	}
	f := open(t, path, Options{ReadOnly: true})
	f.Close()
}

func BenchmarkLoopDevice(b *testing.B) {
	f := open(b, loop(b, image(b, b.TempDir(), 64<<20)), Options{})
	b.Cleanup(func() { f.Close() })
	backendtest.Benchmark(b, f)
}
