//go:build root

// These tests mount file systems, which needs root.

package cow

import (
	"bytes"
	"errors"
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

// TestTmpfs runs the suite on an emptyDir of medium Memory.
func TestTmpfs(t *testing.T) {
	backendtest.Run(t, backendtest.Kind{
		Open: func(t *testing.T, size uint64) backend.Backend {
			return open(t, content0(t, size), Options{Dir: tmpfs(t, "size=200m")})
		},
	})
}

// content0 is content that was zeroed: the suite wants zeroes.
func content0(t *testing.T, size uint64) backend.Backend {
	t.Helper()
	c := content(t, size)
	if err := c.Backend.WriteZeroes(t.Context(), 0, size, backend.MayTrim); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestDiskFull: the disk is full in the middle of a block, which stays as it was
// before and holds no space back.
func TestDiskFull(t *testing.T) {
	const size = 20 * blockSize
	ctx := t.Context()
	base := content(t, size)
	o := openBase(t, base, Options{Dir: tmpfs(t, "size=204k")}) // 3 blocks and 12 KiB
	want := read(t, base, size, 0)
	put := func(what string, p []byte, off int, err error, held uint64) {
		t.Helper()
		if got := o.WriteAt(ctx, p, uint64(off)); !errors.Is(got, err) {
			t.Fatalf("%s: %v, want %v", what, got, err)
		} else if got == nil {
			copy(want[off:], p)
		}
		if !bytes.Equal(read(t, o, size, 0), want) {
			t.Fatalf("%s: it doesn't read as it should", what)
		}
		uses(t, o, what, held)
	}
	put("three blocks", noise(3, 3*blockSize), 0, nil, 3)
	put("a block", noise(4, blockSize), 5*blockSize, unix.ENOSPC, 3)
	put("a part of a block", noise(5, 100), 5*blockSize+100, unix.ENOSPC, 3)
	if n := o.allocated(t); n != 3*blockSize {
		t.Errorf("%d bytes are allocated for three blocks", n)
	}
	put("what is there", noise(6, 3*blockSize), 0, nil, 3)
	if err := o.Trim(ctx, blockSize, blockSize); err != nil {
		t.Fatal(err)
	}
	clear(want[blockSize : 2*blockSize])
	put("after a trim", noise(7, 100), 5*blockSize+100, nil, 3)
	put("after a trim, one more", noise(8, 100), blockSize+100, unix.ENOSPC, 3)
	if n := o.ScratchRefused(); n != 3 {
		t.Errorf("%d writes found no room", n)
	}
}
