//go:build root

package file

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBadSectors reads from a device that answers a part of it with errors: a
// loop device whose file has lost its end. What is good stays usable.
func TestBadSectors(t *testing.T) {
	const size, good = 8 << 20, 4 << 20
	ctx := t.Context()
	path := image(t, t.TempDir(), size)
	device := loop(t, path)
	if err := os.Truncate(path, good); err != nil {
		t.Fatal(err)
	}
	f := open(t, device, Options{})
	t.Cleanup(func() { f.Close() })
	data := bytes.Repeat([]byte{1}, good)
	if err := f.WriteAt(ctx, data, 0); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4096)
	for _, off := range []uint64{good, good + 100, size - 4096} {
		if err := f.ReadAt(ctx, p, off); !errors.Is(err, unix.EIO) {
			t.Errorf("a read of bad sectors at %d: %v", off, err)
		}
	}
	// Half of the range is there: all or nothing.
	if err := f.ReadAt(ctx, make([]byte, 8192), good-4096); !errors.Is(err, unix.EIO) {
		t.Errorf("a read across the first bad sector: %v", err)
	}
	if err := f.Flush(ctx); err != nil {
		t.Errorf("a flush after bad reads: %v", err)
	}
	got := make([]byte, good)
	if err := f.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the good sectors don't read as they were written (%v)", err)
	}
}

// TestLateError writes to a device that can't keep what it was given, as a thin
// one: a loop device over a full file system. A write only fills the page
// cache; the error comes with the flush, and the kernel says it once.
func TestLateError(t *testing.T) {
	ctx := t.Context()
	f := open(t, loop(t, image(t, tmpfs(t, "size=1m"), 4<<20)), Options{})
	t.Cleanup(func() { f.Close() })
	if err := f.WriteAt(ctx, bytes.Repeat([]byte{1}, 4<<20), 0); err != nil {
		t.Errorf("a write: %v", err)
	}
	if err := f.Flush(ctx); !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EIO) {
		t.Errorf("the first flush: %v", err)
	}
	if err := f.Flush(ctx); err != nil {
		t.Errorf("the second flush: %v", err)
	}
}

// TestFullExt4 fills a file system that reserves space at the write and
// allocates it later.
func TestFullExt4(t *testing.T) {
	ctx := t.Context()
	device := loop(t, image(t, t.TempDir(), 16<<20))
	if out, err := exec.Command("mkfs.ext4", "-q", device).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	dir := t.TempDir()
	if err := unix.Mount(device, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("umount: %v", err)
		}
	})
	f := open(t, image(t, dir, 32<<20), Options{})
	t.Cleanup(func() { f.Close() })
	block := bytes.Repeat([]byte{1}, 1<<20)
	written := uint64(0)
	var err error
	for ; err == nil; written++ {
		err = f.WriteAt(ctx, block, written<<20)
	}
	written--
	if !errors.Is(err, unix.ENOSPC) || written == 0 {
		t.Fatalf("after %d MiB a write failed: %v", written, err)
	}
	if err := f.WriteZeroes(ctx, 0, 32<<20, 0); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("zeroes for all of it: %v", err)
	}
	if err := f.Flush(ctx); err != nil {
		t.Errorf("a flush after failed writes: %v", err)
	}
	if err := f.Trim(ctx, 0, written<<20); err != nil {
		t.Errorf("a trim where nothing is free: %v", err)
	}
	if err := f.WriteAt(ctx, block, 0); err != nil {
		t.Errorf("a write after space was freed: %v", err)
	}
}
