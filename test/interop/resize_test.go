package interop

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestResize changes the size of what is below a running server.
func TestResize(t *testing.T) {
	truncate := func(size int64, path string) string { return fmt.Sprintf("truncate -s %d %s", size, path) }
	t.Run("file", func(t *testing.T) {
		t.Parallel()
		image := newHole(t, "disk.img", 16*mib)
		s := start(t, config{volumes: []string{image + ",access=read-write"}})
		nbdsh(t, "resize.py", s.uri("tcp"), image, truncate(24*mib+512, image), truncate(4*mib, image))
		s.signal(syscall.SIGTERM)
		s.wait(0)
	})
	t.Run("device", func(t *testing.T) { // needs root
		t.Parallel()
		image := newHole(t, "disk.img", 16*mib)
		device := loopDevice(t, image)
		s := start(t, config{volumes: []string{device + ",access=read-write"}})
		change := func(size int64) string {
			return truncate(size, image) + " && " + sbin("losetup") + " --set-capacity " + device
		}
		nbdsh(t, "resize.py", s.uri("tcp"), device, change(24*mib), change(4*mib))
		s.signal(syscall.SIGTERM)
		s.wait(0)
	})
}

// TestReload: sizes are found out without anybody connecting.
func TestReload(t *testing.T) {
	t.Parallel()
	image := newHole(t, "disk.img", 16*mib)
	s := start(t, config{volumes: []string{image, "memory:1M"}})
	size := func() uint64 { return s.status().Exports[0].Size }
	resize := func(n int64) {
		t.Helper()
		if err := os.Truncate(image, n); err != nil {
			t.Fatal(err)
		}
	}
	c := s.connect("tcp")
	resize(20 * mib)
	if got := size(); got != 16*mib {
		t.Errorf("the status says %d before anybody has asked for the size", got)
	}
	must(t, raceBinary, "ctl", "--control", "unix://"+s.ctl, "reload")
	if got := size(); got != 20*mib {
		t.Errorf("after ctl reload the status says %d", got)
	}
	for n := int64(1); n <= 3; n++ {
		resize(n * mib)
		s.signal(syscall.SIGHUP)
		eventually(t, "the status has the size after SIGHUP", func() bool { return size() == uint64(n*mib) })
	}
	resize(24 * mib)
	if out := must(t, "nbdinfo", "--size", s.uri("unix")); strings.TrimSpace(out) != itoa(24*mib) {
		t.Errorf("a new connection sees a size of %s", out)
	}
	c.read(16*mib-512, 512) // has kept its own
	c.disconnect()
	s.signal(syscall.SIGTERM)
	s.ended(0, "signal=SIGTERM")
}
