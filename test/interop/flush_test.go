package interop

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestReachesTheDisk looks at whether the file system has written data back,
// which a kill -9 doesn't show: the page cache outlives the process. ext4, XFS
// and btrfs decide where data goes only when they write it back, and filefrag
// shows what is undecided ("delalloc").
func TestReachesTheDisk(t *testing.T) {
	t.Parallel()
	pending := func(path string) bool {
		return strings.Contains(do(t, command(t, sbin("filefrag"), "-v", path)).stdout, "delalloc")
	}
	probe := t.TempDir() + "/probe"
	if err := os.WriteFile(probe, make([]byte, mib), 0o600); err != nil {
		t.Fatal(err)
	}
	if !pending(probe) {
		t.Logf("the file system of %s doesn't tell what it has written back; nothing to see here", probe)
		return
	}
	target := newHole(t, "target.img", 16*mib)
	s := start(t, config{volumes: []string{target + ",access=read-write"}})
	c, other := s.connect("tcp"), s.connect("unix")
	data := random(1, 64<<10)
	n := uint32(len(data))
	ask := func(c *rawClient, what string, request, data []byte, stable bool) {
		t.Helper()
		c.put(request, data)
		if _, errno := c.reply(); errno != 0 {
			t.Fatalf("%s: error %d", what, errno)
		}
		if stable && pending(target) {
			t.Errorf("after %s there is data that isn't on the disk", what)
		}
	}
	ask(c, "a write", request(0, cmdWrite, 1, 0, n), data, false)
	ask(c, "a flush", request(0, cmdFlush, 2, 0, 0), nil, true)
	ask(c, "a write with FUA", request(flagFUA, cmdWrite, 3, mib, n), data, true)
	ask(c, "a write", request(0, cmdWrite, 4, 2*mib, n), data, false)
	// That is what CAN_MULTI_CONN promises.
	ask(other, "a flush on another connection", request(0, cmdFlush, 5, 0, 0), nil, true)
	ask(c, "a write", request(0, cmdWrite, 6, 3*mib, n), data, false)
	c.disconnect()
	other.disconnect()
	s.signal(os.Interrupt)
	s.wait(0)
	if pending(target) {
		t.Error("after the end there is data that isn't on the disk")
	}
	target = newHole(t, "target.img", 16*mib)
	s = start(t, config{volumes: []string{target + ",access=read-write"}})
	nbdsh(t, "flushother.py", s.uri("unix"), target, sbin("filefrag"))
}

// fullDevice is a block device whose writes go well until they are flushed: a
// loop device over a sparse file in a file system that has no room for it. To
// make one needs root.
func fullDevice(t *testing.T, size, room int64) string {
	t.Helper()
	dir := shortDir(t)
	must(t, "mount", "-t", "tmpfs", "-o", "size="+itoa(room), "tmpfs", dir)
	undo := func(name string, args ...string) {
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Errorf("%s %q: %v %s", name, args, err, out)
		}
	}
	t.Cleanup(func() { undo("umount", dir) })
	path := dir + "/img"
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	device := strings.TrimSpace(must(t, sbin("losetup"), "--find", "--show", path))
	t.Cleanup(func() { undo(sbin("losetup"), "--detach", device) })
	return device
}

// TestFlushFails: a disk that accepts writes and then loses them.
func TestFlushFails(t *testing.T) {
	tests := []struct {
		name string
		work func(t *testing.T, c *rawClient)
	}{
		{"at the end", func(*testing.T, *rawClient) {}},
		{"for a client", func(t *testing.T, c *rawClient) {
			for cookie := range uint64(2) { // and again, although the kernel says so only once
				c.put(request(0, cmdFlush, cookie, 0, 0))
				if _, errno := c.reply(); errno == 0 {
					t.Errorf("flush %d succeeds", cookie)
				}
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			device := fullDevice(t, 16*mib, 2*mib)
			s := start(t, config{volumes: []string{"disk=" + device + ",access=read-write"}})
			c := s.connect("unix")
			for i := range uint64(8) {
				c.put(request(0, cmdWrite, i, i*mib, mib), random(i, mib))
				if _, errno := c.reply(); errno != 0 {
					t.Fatalf("a write fails already: %d", errno)
				}
			}
			tt.work(t, c)
			c.disconnect()
			s.signal(syscall.SIGTERM)
			r := s.ended(4, "signal=SIGTERM")
			contains(t, r.Error, `export "disk": `, device, syscall.EIO.Error())
			contains(t, s.stderr.String(), "volume not closed cleanly")
		})
	}
}
