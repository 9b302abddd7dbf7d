package exitwhen

import (
	"bytes"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func armedWatch(t *testing.T, path string) *pathWatch {
	t.Helper()
	w, err := newPathWatch(path)
	ok(t, err)
	t.Cleanup(func() { ok(t, w.close()) })
	ok(t, w.arm())
	return w
}

// The disk that the server writes to may lie beside the file that is watched.
func TestWritesBesideTheFileAreNotReported(t *testing.T) {
	dir := t.TempDir()
	disk, err := os.Create(dir + "/disk.img")
	ok(t, err)
	defer disk.Close()
	w := armedWatch(t, dir+"/stop")
	for i := range 100 {
		_, err := disk.WriteAt([]byte("data"), int64(i)*4096)
		ok(t, err)
	}
	ok(t, disk.Chmod(0o600))
	ok(t, disk.Sync())
	// The directories above are everybody's: events of theirs may be queued.
	n, err := unix.Read(w.fd, w.buf)
	if err != nil && err != unix.EAGAIN {
		t.Fatal(err)
	}
	if n > 0 && bytes.Contains(w.buf[:n], []byte("disk.img")) {
		t.Errorf("there are events of the disk: %q", w.buf[:n])
	}
}

func TestInterpret(t *testing.T) {
	w := &pathWatch{links: []link{{1, "a", false}, {2, "stop", true}}}
	for _, tt := range []struct {
		what     string
		wd       int32
		mask     uint32
		name     string
		change   change
		relevant bool
	}{
		{"the queue overflowed", -1, unix.IN_Q_OVERFLOW, "", change{}, true},
		{"directory gone", 2, unix.IN_IGNORED, "", change{}, true},
		{"file system unmounted", 1, unix.IN_UNMOUNT, "", change{}, true},
		{"watch removed by arm", 9, unix.IN_IGNORED, "", change{}, false},
		{"file created", 2, unix.IN_CREATE, "stop", change{appeared: true}, true},
		{"file moved here", 2, unix.IN_MOVED_TO, "stop", change{appeared: true}, true},
		{"file deleted", 2, unix.IN_DELETE, "stop", change{vanished: true}, true},
		{"file moved away", 2, unix.IN_MOVED_FROM, "stop", change{vanished: true}, true},
		{"directory created", 1, unix.IN_CREATE | unix.IN_ISDIR, "a", change{}, true},
		{"directory moved away", 1, unix.IN_MOVED_FROM | unix.IN_ISDIR, "a", change{vanished: true}, true},
		{"same name elsewhere", 1, unix.IN_CREATE, "stop", change{}, false},
		{"other name", 2, unix.IN_CREATE, "stop2", change{}, false},
		{"directory no longer watched", 7, unix.IN_CREATE, "stop", change{}, false},
	} {
		c, relevant := w.interpret(tt.wd, tt.mask, tt.name)
		if c != tt.change || relevant != tt.relevant {
			t.Errorf("%s: %+v, %v; want %+v, %v", tt.what, c, relevant, tt.change, tt.relevant)
		}
	}
}

// However often the directories change, no watch is left on those that are no
// longer on the way.
func TestArmLeavesNoWatchesBehind(t *testing.T) {
	dir := t.TempDir()
	w := armedWatch(t, dir+"/a/stop")
	for i := range 10 {
		ok(t, os.Mkdir(dir+"/"+itoa(i), 0o755))
		ok(t, os.Symlink(itoa(i), dir+"/tmp"))
		ok(t, os.Rename(dir+"/tmp", dir+"/a"))
		ok(t, w.arm())
	}
	info, err := os.ReadFile("/proc/self/fdinfo/" + itoa(w.fd))
	ok(t, err)
	if n := bytes.Count(info, []byte("inotify wd:")); n != len(w.names) {
		t.Errorf("%d directories are watched, want %d:\n%s", n, len(w.names), info)
	}
}
