package exitwhen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// named is the condition that there was a process of a name and none is left.
type named struct {
	name     string // of the condition
	process  string
	read     func(file string) ([]byte, error) // of /proc; readStart, but for tests
	poll     time.Duration
	log      *zap.Logger
	watched  map[int]*descriptor // that haven't exited, by id
	seen     bool                // one, at some time
	happened bool

	scanTrouble, hiddenTrouble, openTrouble trouble
}

// maxProcessName is the longest name of a file, and of a process, in bytes.
const maxProcessName = 255

// newNamed happens when processes of a name have been seen and all of them have
// exited. The name is that of the main thread (/proc/PID/comm, at most 15 bytes) or
// of the file in the first argument (argv[0]). A process counts from when it is seen
// until it exits, whatever it calls itself by then; a zombie has exited. This
// process itself doesn't count.
//
// The end of a process that is known is noticed at once. That there is one is
// found out by looking, every blindPoll or every o.Poll if that is shorter: one
// that lives for less time than that may never be seen.
//
// Processes in other pid namespaces aren't seen, and those of other users not
// where /proc is mounted with hidepid; the second is logged.
func newNamed(process string, o Options) (*named, error) {
	if process == "" || len(process) > maxProcessName || strings.ContainsAny(process, "/\x00\n") {
		return nil, fmt.Errorf("%q is no name of a process: give 1 to %d bytes without a slash, as in the column COMMAND of ps -c", process, maxProcessName)
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return nil, fmt.Errorf("no process can be watched: pidfd_open: %w: Linux 5.3 or newer, and a seccomp profile that allows the call, are needed", err)
	}
	unix.Close(fd)
	o = o.withDefaults()
	name := "process-exits=name=" + process
	return &named{
		name:    name,
		process: process,
		read:    readStart,
		poll:    min(o.Poll, blindPoll),
		log:     o.Log.With(zap.String("condition", name)),
		watched: map[int]*descriptor{},
	}, nil
}

func (n *named) String() string { return n.name }

func (n *named) Check(context.Context) (bool, error) {
	n.look()
	return n.happened, nil
}

func (n *named) Watch(ctx context.Context) error {
	for {
		running := n.look()
		if n.happened {
			return nil
		}
		var err error
		if running != nil {
			err = running.Watch(ctx)
		} else {
			err = sleep(ctx, n.poll)
		}
		if err != nil {
			return err
		}
	}
}

func (n *named) Close() error {
	var errs []error
	for pid, d := range n.watched {
		errs = append(errs, d.Close())
		delete(n.watched, pid)
	}
	return errors.Join(errs...)
}

// look forgets who has exited, then looks for processes of the name, in this order:
// who has left a successor behind had done so before. It returns one that can be
// waited for, if there is any.
func (n *named) look() (running *descriptor) {
	if n.happened {
		return nil
	}
	n.forget()
	pids, err := n.scan()
	if n.scanTrouble.isNews(err) {
		n.log.Warn("the processes can't be looked at", zap.Error(err))
	}
	if err != nil {
		return n.any()
	}
	var unwatched error
	for _, pid := range pids {
		if n.watched[pid] != nil {
			continue
		}
		d, had, err := n.open(pid)
		n.seen = n.seen || had
		if err != nil {
			unwatched = err
		} else if d != nil {
			n.watched[pid] = d
		}
	}
	if n.openTrouble.isNews(unwatched) {
		n.log.Warn("a process can't be watched, and is looked at from time to time", zap.Error(unwatched))
	}
	n.forget()
	n.happened = n.seen && len(n.watched) == 0 && unwatched == nil
	return n.any()
}

func (n *named) forget() {
	for pid, d := range n.watched {
		if exited, _ := d.Check(context.Background()); exited {
			d.Close() //nolint:errcheck // nothing is waited for
			delete(n.watched, pid)
		}
	}
}

func (n *named) any() *descriptor {
	for _, d := range n.watched {
		return d
	}
	return nil
}

// scan finds the ids of the processes that have the name now.
func (n *named) scan() ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var pids []int
	var hidden error
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		is, err := n.is(pid)
		if errors.Is(err, fs.ErrPermission) {
			hidden = fs.ErrPermission
		}
		if is {
			pids = append(pids, pid)
		}
	}
	if n.hiddenTrouble.isNews(hidden) {
		n.log.Warn("the processes of other users can't be looked at: mount /proc without hidepid", zap.Error(hidden))
	}
	return pids, nil
}

// is tells whether a process has the name. One that is gone has none.
func (n *named) is(pid int) (bool, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	comm, err := n.read(filepath.Join(dir, "comm"))
	if err != nil {
		return false, err
	}
	if strings.TrimSuffix(string(comm), "\n") == n.process {
		return true, nil
	}
	line, err := n.read(filepath.Join(dir, "cmdline"))
	if err != nil {
		return false, err
	}
	argv0, _, _ := bytes.Cut(line, []byte{0})
	return len(argv0) > 0 && path.Base(string(argv0)) == n.process, nil
}

// readStart reads the beginning of a file: a command line may have megabytes.
func readStart(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 4096))
}

// open opens a process that had the name a moment ago, and tells whether it still
// had it when it couldn't be mistaken for another one any more, or had exited by
// then: nil.
func (n *named) open(pid int) (d *descriptor, had bool, err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, true, nil
	}
	if err == nil {
		d, err = newOwnedDescriptor(n.name, fd, unix.EPOLLIN)
	}
	if err != nil {
		return nil, true, err
	}
	is, _ := n.is(pid)
	if exited, _ := d.Check(context.Background()); is || exited {
		return d, true, nil
	}
	d.Close() //nolint:errcheck // nothing is waited for
	return nil, false, nil
}
