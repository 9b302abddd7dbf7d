package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/nbdexport/nbdexport/nbdserver"
	"github.com/nbdexport/nbdexport/nbdserver/backend/memory"
)

// watched is a server whose configuration file is followed.
type watched struct {
	t    *testing.T
	srv  *nbdserver.Server
	logs *observer.ObservedLogs
	path string
	done chan struct{}
	over chan struct{}
}

// watchConfig reads the file at path and follows it, in a synctest bubble.
func watchConfig(t *testing.T, path string) *watched {
	t.Helper()
	m, err := memory.New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.InfoLevel)
	w := &watched{t: t, logs: logs, path: path, done: make(chan struct{}), over: make(chan struct{})}
	w.srv = &nbdserver.Server{Exports: []*nbdserver.Export{{Name: "disk", Backend: m}}, Log: zap.New(core)}
	c := newConfigFile(path, defaultLimits, w.srv)
	if err := c.reload(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(w.over)
		c.watch(w.done)
	}()
	return w
}

func (w *watched) stop() {
	close(w.done)
	<-w.over
}

// says expects one line in the log since it was called last, within the time
// that a change may take to be noticed; none for "".
func (w *watched) says(words string) {
	w.t.Helper()
	time.Sleep(3 * configPoll)
	synctest.Wait()
	all := w.logs.TakeAll()
	switch {
	case words == "" && len(all) == 0:
	case words != "" && len(all) == 1 && strings.Contains(all[0].Message+fmt.Sprint(all[0].ContextMap()), words):
	default:
		w.t.Errorf("the log has %.300s, not %q", fmt.Sprint(all), words)
	}
}

const inForce = "the changed configuration is in force"

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func TestConfigFileIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "nbd.yaml")
		write(t, path, "maxConnections: 1")
		w := watchConfig(t, path)
		defer w.stop()
		w.says("")
		write(t, path, "maxConnections: 22") // in place
		w.says(inForce)
		write(t, path+".new", "maxConnections: 333")
		rename(t, path+".new", path)
		w.says(inForce)
		if err := os.Chtimes(path, time.Now(), time.Now()); err != nil { // no other content
			t.Fatal(err)
		}
		w.says("")
		write(t, path, "maxConnections: 1\nmaxConnection: 1")
		w.says(`unknown key "maxConnection"`)
		w.says("") // once
		write(t, path, "volumes: {dusk: {}}")
		w.says(`"dusk" isn't the name of a volume`)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		w.says("is gone")
		w.says("")
		write(t, path, "maxConnections: 333") // as before all that
		w.says("")
		write(t, path, "maxConnections: 4444")
		w.says(inForce)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		w.says("is no regular file")
	})
}

// A ConfigMap is mounted as links through ..data, which is switched.
func TestConfigMapIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		link := func(target, name string) {
			t.Helper()
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		for _, version := range []string{"..1", "..2"} {
			if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, version, "nbd.yaml"), "maxConnections: 1"+version[2:])
		}
		link("..1", "..data")
		link("..data/nbd.yaml", "nbd.yaml")
		w := watchConfig(t, filepath.Join(dir, "nbd.yaml"))
		defer w.stop()
		w.says("")
		link("..2", "..data_tmp")
		rename(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
		w.says(inForce)
	})
}

// While a file is being written it isn't read, and then once.
func TestConfigFileSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "nbd.yaml")
		write(t, path, "")
		w := watchConfig(t, path)
		defer w.stop()
		w.says("")
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for range 100 {
			if _, err := f.WriteString("maxConnections: 10 # and half a line"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(configPoll / 2)
		}
		if n := w.logs.Len(); n != 0 {
			t.Errorf("%d lines in the log while the file is being written", n)
		}
		w.says(inForce)
	})
}

func TestConfigFileAtStart(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "nbd.yaml")
	for content, why := range map[string]string{
		"volumes: {dusk: {}}":        `volumes: "dusk" isn't the name of a volume`,
		"a: b":                       `unknown key "a"`,
		"maxMemory: 1M":              "maxMemory: 1048576 bytes are too few",
		strings.Repeat(" ", 1<<20+1): "longer than 1048576 bytes",
	} {
		write(t, path, content)
		f := limitFlags{maxConnections: 1, handshakeTimeout: 1, config: path}
		if err := f.apply(&nbdserver.Server{}); err == nil || !strings.Contains(err.Error(), "--config") || !strings.Contains(err.Error(), why) {
			t.Errorf("%.30q: %v; want an error with %s", content, err, why)
		}
	}
	for _, path := range []string{dir, dir + "/nothing"} {
		f := limitFlags{maxConnections: 1, handshakeTimeout: 1, config: path}
		if err := f.apply(&nbdserver.Server{}); err == nil || !strings.Contains(err.Error(), "--config: ") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := (*configFile)(nil).reload(); err != nil {
		t.Errorf("without a file: %v", err)
	}
}
