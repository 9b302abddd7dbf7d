package exitwhen

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// namesMask asks for what becomes of the names in a directory, and for nothing
// else. In particular not for IN_MODIFY: the file that ends an export often lies
// on the volume beside the disk image, and each write to the disk would be
// reported (that doubles the time of a small write). fsnotify can't be told to
// leave it out, which is why inotify(7) is used directly.
const namesMask = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_ONLYDIR

// pathWatch has the kernel report what becomes of one path. It watches each
// directory on the way to it for the name that comes next, so that it follows
// when directories are made, renamed and removed, and when symbolic links to
// directories are replaced.
type pathWatch struct {
	fd    int // of file, which stays open for as long as it is used
	file  *os.File
	names []string // the path's components, from the root
	links []link   // the directories that are watched, from the root
	buf   []byte
	queue []byte // what was read into buf and not looked at yet
}

// link is one watched directory and the name in it that leads on.
type link struct {
	wd   int32 // inotify's number of the watch
	name string
	last bool // the name is the file itself
}

// change is one thing that became of the path.
type change struct {
	appeared bool // the file itself was created or moved here
	vanished bool // the file, or a directory on the way to it, was removed or moved away
}

// newPathWatch makes an inotify instance for an absolute, clean path. It watches
// nothing before arm is called.
func newPathWatch(path string) (*pathWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	switch {
	case errors.Is(err, unix.EMFILE):
		return nil, fmt.Errorf("inotify_init: %w: raise the sysctl fs.inotify.max_user_instances, or the limit of open files", err)
	case err != nil:
		return nil, fmt.Errorf("inotify_init: %w", err)
	}
	file, err := pollable(fd, "inotify")
	if err != nil {
		return nil, err
	}
	var names []string
	if path != "/" {
		names = strings.Split(path[1:], "/")
	}
	return &pathWatch{fd: fd, file: file, names: names, buf: make([]byte, 16<<10)}, nil
}

// arm watches the directories that exist on the way to the path now. Whoever
// calls it must look at the path afterwards: what happened before isn't
// reported. It returns an error if the last of the directories can't be
// watched, so that the path's creation might go unreported.
//
// Calling it again doesn't lose reports: the kernel keeps a watch that is asked
// for twice.
func (w *pathWatch) arm() error {
	var armed []link
	var blind error
	dir := "/"
	for i, name := range w.names {
		wd, err := unix.InotifyAddWatch(w.fd, dir, namesMask)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			break // the directory above it reports when that changes
		}
		switch {
		case err == nil:
			blind = nil
			armed = append(armed, link{int32(wd), name, i == len(w.names)-1})
		case errors.Is(err, unix.ENOSPC):
			blind = fmt.Errorf("inotify_add_watch %s: %w: raise the sysctl fs.inotify.max_user_watches", dir, err)
		default: // EACCES: one may pass through a directory that one may not read
			blind = fmt.Errorf("inotify_add_watch %s: %w", dir, err)
		}
		dir = strings.TrimSuffix(dir, "/") + "/" + name
	}
	for _, old := range w.links {
		if !slices.ContainsFunc(armed, func(l link) bool { return l.wd == old.wd }) {
			// It fails if the directory is gone, and the watch with it.
			_, _ = unix.InotifyRmWatch(w.fd, uint32(old.wd))
		}
	}
	w.links = armed
	return blind
}

// next returns the next change, ctx's error, or os.ErrDeadlineExceeded. After
// each change arm is to be called again.
func (w *pathWatch) next(ctx context.Context, deadline time.Time) (change, error) {
	for {
		if c, ok := w.dequeue(); ok {
			return c, nil
		}
		var n int
		var err error
		waited := await(ctx, w.file, deadline, func() bool {
			n, err = unix.Read(w.fd, w.buf)
			return err != unix.EAGAIN && err != unix.EINTR
		})
		if waited != nil {
			return change{}, waited
		}
		if err != nil {
			return change{}, fmt.Errorf("inotify: %w", err)
		}
		w.queue = w.buf[:n]
	}
}

// dequeue returns the next change among the events that were read, if there is
// one. Events for other names in the directories are passed over.
func (w *pathWatch) dequeue() (change, bool) {
	// struct inotify_event { int wd; uint32_t mask, cookie, len; char name[len]; }
	for len(w.queue) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(w.queue))
		mask := binary.NativeEndian.Uint32(w.queue[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(w.queue[12:]))
		name, _, _ := bytes.Cut(w.queue[unix.SizeofInotifyEvent:end], []byte{0})
		w.queue = w.queue[end:]
		if c, ok := w.interpret(wd, mask, string(name)); ok {
			return c, true
		}
	}
	return change{}, false
}

func (w *pathWatch) interpret(wd int32, mask uint32, name string) (change, bool) {
	if mask&unix.IN_Q_OVERFLOW != 0 {
		return change{}, true // reports were lost: look again
	}
	for _, l := range w.links {
		if l.wd != wd {
			continue
		}
		if mask&(unix.IN_IGNORED|unix.IN_UNMOUNT) != 0 {
			return change{}, true // the directory is gone or its file system unmounted
		}
		if l.name == name {
			return change{
				appeared: l.last && mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0,
				vanished: mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0,
			}, true
		}
	}
	return change{}, false
}

func (w *pathWatch) close() error { return w.file.Close() }
