package exitwhen

import (
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pipe is one whose read end is as a parent process leaves it: blocking, and
// without close-on-exec.
func pipe(t *testing.T) (r int, w *os.File) {
	t.Helper()
	var p [2]int
	ok(t, unix.Pipe(p[:]))
	t.Cleanup(func() { unix.Close(p[0]) })
	unix.CloseOnExec(p[1])
	w = os.NewFile(uintptr(p[1]), "write end")
	t.Cleanup(func() { w.Close() })
	return p[0], w
}

func TestPipeInherited(t *testing.T) {
	r, w := pipe(t)
	before := fcntl(t, r, unix.F_GETFL)
	c := made(t)(PipeClosed(itoa(r), unpolled))
	if want := "pipe-closed=" + itoa(r); c.String() != want {
		t.Errorf("String() = %q, want %q", c, want)
	}
	check(t, c, false)
	watching := startWatch(t, c).parked()
	_, err := w.WriteString("never read")
	ok(t, err)
	watching.parked()
	ok(t, w.Close())
	watching.happens()
	check(t, c, true)
	startWatch(t, c).happens()

	if after := fcntl(t, r, unix.F_GETFL); after != before {
		t.Errorf("file status flags are %#x, were %#x", after, before)
	}
	if fcntl(t, r, unix.F_GETFD)&unix.FD_CLOEXEC == 0 {
		t.Error("the descriptor is passed on to children")
	}
	buf := make([]byte, 99)
	n, err := unix.Read(r, buf)
	if string(buf[:n]) != "never read" {
		t.Errorf("left in the pipe: %q, %v", buf[:n], err)
	}
	ok(t, c.Close())
	fcntl(t, r, unix.F_GETFD) // still open
}

func TestPipeClosedAtStart(t *testing.T) {
	r, w := pipe(t)
	_, err := w.WriteString("unread")
	ok(t, err)
	ok(t, w.Close())
	check(t, made(t)(PipeClosed(itoa(r), unpolled)), true)
}

func TestPipeWatchCanceled(t *testing.T) {
	r, w := pipe(t)
	c := made(t)(PipeClosed(itoa(r), unpolled))
	for range 3 {
		startWatch(t, c).parked().canceled()
	}
	watching := startWatch(t, c).parked()
	ok(t, w.Close())
	watching.happens()
}

// Data that comes into the pipe, and stays there, doesn't wake the watcher.
func TestPipeDataWakesNobody(t *testing.T) {
	r, w := pipe(t)
	e, err := newEpoll(r, 0)
	ok(t, err)
	defer e.close()
	looks := 0
	result := make(chan error, 1)
	go func() {
		result <- await(t.Context(), e.file, time.Time{}, func() bool { looks++; return e.ready() })
	}()
	for range 1000 {
		_, err := w.WriteString("data")
		ok(t, err)
	}
	ok(t, w.Close())
	ok(t, <-result)
	if looks > 3 { // one at first and one at the end, and one in case of chance
		t.Errorf("looked %d times", looks)
	}
}

func TestPipeDescriptorRefused(t *testing.T) {
	_, w := pipe(t)
	ep, err := unix.EpollCreate1(0) // as the runtime has one
	ok(t, err)
	defer unix.Close(ep)
	null, err := os.Open("/dev/null")
	ok(t, err)
	defer null.Close()
	fifo := t.TempDir() + "/fifo"
	ok(t, unix.Mkfifo(fifo, 0o600))
	both, err := os.OpenFile(fifo, os.O_RDWR, 0)
	ok(t, err)
	defer both.Close()
	for _, tt := range []struct{ arg, words string }{
		{"9999", "descriptor 9999 isn't open: pass it to the process, e.g. 9<pipe"},
		{"-1", "descriptor -1 isn't open"},
		{"99999999999999999999", "descriptor 99999999999999999999 isn't open"},
		{number(w), "is the write end of a pipe"},
		{number(both), "is open for writing too"},
		{number(null), "isn't a pipe"},
		{itoa(ep), "isn't a pipe"},
		{"", "no pipe given"},
	} {
		c, err := PipeClosed(tt.arg, unpolled)
		refused(t, c, err, tt.words)
	}
}

func TestFIFO(t *testing.T) {
	t.Chdir(t.TempDir())
	dir, err := os.Getwd()
	ok(t, err)
	defer unix.Umask(unix.Umask(0o077))
	c := made(t)(PipeClosed("5.fifo", unpolled))
	if want := "pipe-closed=" + dir + "/5.fifo"; c.String() != want {
		t.Errorf("String() = %q, want %q", c, want)
	}
	fi, err := os.Stat("5.fifo")
	ok(t, err)
	if want := os.ModeNamedPipe | 0o660; fi.Mode() != want {
		t.Errorf("mode %v, want %v", fi.Mode(), want)
	}

	// Nobody has opened it yet, which isn't the same as closed.
	check(t, c, false)
	watching := startWatch(t, c).parked()
	first, err := os.OpenFile("5.fifo", os.O_WRONLY, 0)
	ok(t, err)
	second, err := os.OpenFile("5.fifo", os.O_WRONLY, 0)
	ok(t, err)
	_, err = first.WriteString("never read")
	ok(t, err)
	ok(t, first.Close())
	watching.parked()
	ok(t, second.Close())
	watching.happens()

	// It stays for other servers, and it stays closed even if opened again.
	third, err := os.OpenFile("5.fifo", os.O_WRONLY, 0)
	ok(t, err)
	defer third.Close()
	check(t, c, true)
	startWatch(t, c).happens()
}

func TestFIFOThatExists(t *testing.T) {
	path := t.TempDir() + "/fifo"
	ok(t, unix.Mkfifo(path, 0o600))
	c := made(t)(PipeClosed(path, unpolled))
	check(t, c, false)
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	ok(t, err)
	check(t, c, false)
	ok(t, w.Close())
	check(t, c, true)
	fi, err := os.Stat(path)
	ok(t, err)
	if fi.Mode().Perm() != 0o600 {
		t.Errorf("the mode of somebody else's FIFO was changed to %v", fi.Mode())
	}
}

func TestFIFORefused(t *testing.T) {
	dir := t.TempDir()
	touch(t, dir+"/file")
	ok(t, os.Symlink("nowhere/fifo", dir+"/dangling"))
	for _, tt := range []struct{ path, words string }{
		{dir + "/file", "isn't a FIFO"},
		{dir, "isn't a FIFO"},
		{"/dev/null", "isn't a FIFO"},
		{dir + "/missing/fifo", "can't make the FIFO"},
		{dir + "/file/fifo", "can't look at the FIFO"},
		{dir + "/dangling", "can't look at the FIFO"},
	} {
		c, err := PipeClosed(tt.path, unpolled)
		refused(t, c, err, tt.words)
	}
}

func fcntl(t *testing.T, fd, cmd int) int {
	t.Helper()
	v, err := unix.FcntlInt(uintptr(fd), cmd, 0)
	ok(t, err)
	return v
}

func itoa(n int) string { return strconv.Itoa(n) }

// number is f's descriptor; it doesn't use f.Fd, which makes it blocking.
func number(f *os.File) string {
	var s string
	raw, err := f.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { s = itoa(int(fd)) })
	}
	if err != nil {
		panic(err)
	}
	return s
}
