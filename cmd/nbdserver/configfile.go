package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/nbdexport/nbdexport/nbdserver"
)

const (
	// maxConfig is the longest configuration file, in bytes: that of a
	// ConfigMap.
	maxConfig = 1 << 20
	// configPoll is the time between two looks at the configuration file. A
	// change is taken over when two of them show the same.
	configPoll = 500 * time.Millisecond
)

// configFile is the file of --config. It is looked at again and again, which
// costs a system call and notices every way in which a file is replaced:
// written in place, renamed over, behind symbolic links that are switched as a
// ConfigMap's are, and on network file systems. To have the kernel report
// changes would cost an event for each write to a disk image beside it.
type configFile struct {
	path string
	base nbdserver.Limits // of the flags
	srv  *nbdserver.Server
	log  *zap.Logger

	mu      sync.Mutex
	current []byte // the content that is in force; nil before the first
}

func newConfigFile(path string, base nbdserver.Limits, srv *nbdserver.Server) *configFile {
	log := srv.Log
	if log == nil {
		log = zap.NewNop()
	}
	return &configFile{path: path, base: base, srv: srv, log: log.With(zap.String("file", path))}
}

// reload reads the file and puts it in force. If something is wrong with it,
// everything stays as it was and the error says what. Without a file it does
// nothing. It may be called from any goroutine.
func (c *configFile) reload() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := readConfig(c.path)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	if c.current != nil && bytes.Equal(b, c.current) {
		return nil
	}
	l, err := parseConfig(b, c.base)
	if err == nil {
		err = c.srv.SetLimits(l)
	}
	if err != nil {
		return fmt.Errorf("--config %s: %w", c.path, err)
	}
	if c.current != nil {
		c.log.Info("the changed configuration is in force")
	}
	c.current = b
	return nil
}

// readConfig returns the content of a file, which isn't nil.
func readConfig(path string) ([]byte, error) {
	// Not to hang at the open of a FIFO.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxConfig {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, maxConfig)
	}
	return b, nil
}

// watch follows changes of the file until done is closed. A change is let settle
// first: a file that is being written is shorter than it will be.
func (c *configFile) watch(done <-chan struct{}) {
	read := fileVersion{size: -1} // like no file: what it says may have changed since it was read at start
	var before fileVersion
	t := time.NewTicker(configPoll)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-done:
			return
		}
		now := versionOf(c.path)
		settled := now == before
		if before = now; !settled || now == read {
			continue
		}
		read = now
		switch err := c.reload(); {
		case errors.Is(err, fs.ErrNotExist):
			c.log.Warn("the configuration file is gone; what it said last stays in force")
		case err != nil:
			c.log.Error("the changed configuration is not used; the one before stays in force", zap.String("error", oneLine(err)))
		}
	}
}

// fileVersion tells one state of a file from another.
type fileVersion struct {
	there         bool
	dev, ino      uint64
	size          int64
	mtime, change syscall.Timespec
}

func versionOf(path string) fileVersion {
	st, err := os.Stat(path)
	if err != nil {
		return fileVersion{there: !errors.Is(err, fs.ErrNotExist)}
	}
	sys := st.Sys().(*syscall.Stat_t)
	return fileVersion{true, sys.Dev, sys.Ino, st.Size(), sys.Mtim, sys.Ctim}
}
