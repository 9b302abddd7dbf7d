package interop

import (
	"os"
	"strings"
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
