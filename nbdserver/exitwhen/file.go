package exitwhen

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// blindPoll is the longest time between two looks at a file of which inotify
// doesn't tell. To look is one system call.
const blindPoll = 2 * time.Second

// FileCreated happens when the path exists, as exit-when-file-created in
// nbdkit-exitwhen-filter(1). Symbolic links are followed: a dangling one
// doesn't exist. The path is taken relative to the working directory of now;
// the directories that lead to it needn't exist yet.
//
// It is noticed at once, also if the file is removed again at once, and within
// o.Poll where the kernel doesn't see it: on network file systems, through a
// volume mounted over a directory, at the far end of a dangling link.
func FileCreated(path string, o Options) (Condition, error) {
	return newFile("file-created", path, true, o)
}

// FileDeleted happens when the path doesn't exist, as exit-when-file-deleted in
// nbdkit-exitwhen-filter(1); a file that is moved away, also along with a
// directory that leads to it, is deleted, one that is replaced by another is
// not. That the path can't be looked at for want of permission isn't deletion
// either. What FileCreated says of paths and of when it is noticed holds here
// too.
func FileDeleted(path string, o Options) (Condition, error) {
	return newFile("file-deleted", path, false, o)
}

// file is the condition that path exists, or that it doesn't.
type file struct {
	name     string
	path     string
	created  bool // the condition is existence
	poll     time.Duration
	log      *zap.Logger
	open     func(path string) (*pathWatch, error) // newPathWatch, but for tests
	watch    *pathWatch                            // nil before the first look and while inotify can't be had
	happened bool

	statTrouble, watchTrouble trouble
}

func newFile(kind, path string, created bool, o Options) (*file, error) {
	o = o.withDefaults()
	if path == "" {
		return nil, errors.New("no file given: give a path")
	}
	if strings.ContainsRune(path, 0) {
		return nil, fmt.Errorf("the path %q has a zero byte in it: give a path without", path)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	name := kind + "=" + path
	return &file{
		name:    name,
		path:    path,
		created: created,
		poll:    o.Poll,
		log:     o.Log.With(zap.String("condition", name)),
		open:    newPathWatch,
	}, nil
}

func (f *file) String() string { return f.name }

// Check begins to watch, too, so that nothing is missed between Check and Watch.
func (f *file) Check(context.Context) (bool, error) {
	f.look()
	return f.happened, nil
}

func (f *file) Watch(ctx context.Context) error {
	for {
		armed := f.look()
		if f.happened {
			return nil
		}
		if err := f.wait(ctx, armed); err != nil {
			return err
		}
	}
}

func (f *file) Close() error {
	if f.watch == nil {
		return nil
	}
	w := f.watch
	f.watch = nil
	return w.close()
}

// look sees to it that the path is watched and then whether it exists, in this
// order, so that nothing is missed in between. It tells whether inotify will
// report the next change.
func (f *file) look() (armed bool) {
	err := f.arm()
	if f.watchTrouble.isNews(err) {
		f.log.Warn("the kernel can't report changes of this file, it is polled instead",
			zap.Duration("poll", min(f.poll, blindPoll)), zap.Error(err))
	}
	f.stat()
	return err == nil
}

func (f *file) arm() error {
	if f.watch == nil {
		w, err := f.open(f.path)
		if err != nil {
			return err
		}
		f.watch = w
	}
	return f.watch.arm()
}

func (f *file) stat() {
	_, err := os.Stat(f.path)
	gone := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
	unknown := err
	if gone {
		unknown = nil
	}
	if f.statTrouble.isNews(unknown) {
		f.log.Warn("can't tell whether this file exists", zap.Error(unknown))
	}
	if f.created && err == nil || !f.created && gone {
		f.happened = true
	}
}

// wait returns nil when it is time to look again: after a change, or when the
// poll is due. A change that is the condition itself is latched, because it may
// be undone before the next look.
func (f *file) wait(ctx context.Context, armed bool) error {
	poll := f.poll
	if !armed {
		poll = min(poll, blindPoll)
	}
	if f.watch == nil {
		return sleep(ctx, poll)
	}
	c, err := f.watch.next(ctx, time.Now().Add(poll))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
	case err != nil:
		return err
	case f.created:
		f.happened = c.appeared && !f.isSymlink()
	default:
		f.happened = c.vanished
	}
	return nil
}

// isSymlink tells whether the path is a symbolic link now: it was created, but
// whether that is the creation of a file depends on where it leads.
func (f *file) isSymlink() bool {
	fi, err := os.Lstat(f.path)
	return err == nil && fi.Mode()&os.ModeSymlink != 0
}

// sleep waits for d, or returns ctx's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// trouble remembers the last error, so that what stays the same is logged once.
type trouble string

// isNews tells whether err is an error and another one than before.
func (t *trouble) isNews(err error) bool {
	if err == nil {
		*t = ""
		return false
	}
	was := *t
	*t = trouble(err.Error())
	return *t != was
}
