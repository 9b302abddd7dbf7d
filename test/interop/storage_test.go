package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// loopDevice makes a block device of a file, which needs root, and returns its
// path.
func loopDevice(t *testing.T, image string) string {
	t.Helper()
	device := strings.TrimSpace(must(t, sbin("losetup"), "--find", "--show", image))
	t.Cleanup(func() { detach(t, device) })
	return device
}

// detach lets go of a loop device. It is run when the commands of the test's
// context are killed already.
func detach(t *testing.T, device string) {
	t.Helper()
	cmd := exec.Command(sbin("losetup"), "--detach", device)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("losetup --detach %s: %v: %s", device, err, out)
	}
}

// mounted mounts a file system for the time of the test, which needs root.
func mounted(t *testing.T, source, kind, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount(source, dir, kind, 0, options); err != nil {
		t.Fatalf("mount, which needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("umount %s: %v", dir, err)
		}
	})
	return dir
}

// smallFileSystems have room for some 12 MiB.
var smallFileSystems = map[string]func(t *testing.T) string{
	"tmpfs": func(t *testing.T) string { return mounted(t, "tmpfs", "tmpfs", "size=12m") },
	"ext4": func(t *testing.T) string {
		device := loopDevice(t, newHole(t, "ext4.img", 16*mib))
		must(t, sbin("mkfs.ext4"), "-q", device)
		return mounted(t, device, "ext4", "")
	},
}

func TestDiskFull(t *testing.T) {
	for name, make := range smallFileSystems {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := make(t)
			filler := filepath.Join(dir, "filler")
			if err := os.WriteFile(filler, random(1, 4*mib), 0o600); err != nil {
				t.Fatal(err)
			}
			image := filepath.Join(dir, "disk.img")
			if err := os.WriteFile(image, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(image, 64*mib); err != nil {
				t.Fatal(err)
			}
			s := start(t, config{volumes: []string{
				image + ",access=read-write", "other=" + newHole(t, "other.img", mib) + ",access=read-write"}})
			nbdsh(t, "diskfull.py", s.uris["tcp"][0], s.uris["tcp"][1], filler)
			s.signal(syscall.SIGTERM)
			s.wait(0) // nothing that was acknowledged is lost
		})
	}
}

// TestLateError: a thin device, here a loop device over a full file system,
// takes writes into the page cache and can't keep them.
func TestLateError(t *testing.T) {
	t.Parallel()
	image := filepath.Join(mounted(t, "tmpfs", "tmpfs", "size=1m"), "thin.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 4*mib); err != nil {
		t.Fatal(err)
	}
	device := loopDevice(t, image)
	s := start(t, config{volumes: []string{device + ",access=read-write", "memory:1M"}})
	nbdsh(t, "lateerror.py", s.uris["unix"][0], s.uris["unix"][1])
	s.signal(syscall.SIGTERM)
	if r := s.wait(4); !strings.Contains(r.Error, "flush") {
		t.Errorf("the report is %+v", r)
	}
}

// TestBadSectors: a loop device answers with EIO where its file has lost its end.
func TestBadSectors(t *testing.T) {
	t.Parallel()
	image := newHole(t, "disk.img", 8*mib)
	device := loopDevice(t, image)
	if err := os.Truncate(image, 4*mib); err != nil {
		t.Fatal(err)
	}
	s := start(t, config{volumes: []string{device + ",access=read-write"}})
	nbdsh(t, "badsectors.py", s.uri("tcp"), itoa(4*mib))
	s.signal(syscall.SIGTERM)
	s.wait(0)
}
