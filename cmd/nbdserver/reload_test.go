package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

func TestReloader(t *testing.T) {
	var done []string
	r := newReloader(zap.NewNop())
	add := func(what string, err error) {
		r.add(what, func(context.Context) error {
			done = append(done, what)
			return err
		})
	}
	post := func() (int, string) {
		w := httptest.NewRecorder()
		controlPages(nil, r).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/reload", nil))
		return w.Code, w.Body.String()
	}
	add("first", nil)
	if code, body := post(); code != http.StatusOK || body != "" {
		t.Errorf("%d %q", code, body)
	}
	done = nil
	add("second", errors.New("bad\nnews"))
	add("third", syscall.EIO)
	add("fourth", nil)
	// One that fails keeps none of the others, and all are told of.
	if code, body := post(); code != http.StatusInternalServerError || body != "second: bad news third: input/output error\n" {
		t.Errorf("%d %q", code, body)
	}
	if got := strings.Join(done, " "); got != "first second third fourth" {
		t.Errorf("done: %s", got)
	}
}

// TestCtlReload: who asks by "nbdserver ctl" is told what went wrong.
func TestCtlReload(t *testing.T) {
	control := "unix://" + socketDir(t) + "/ctl"
	l, err := listenControl(control)
	if err != nil {
		t.Fatal(err)
	}
	r := newReloader(zap.NewNop())
	var result error
	r.add("sizes", func(context.Context) error { return result })
	defer serveHTTP(l, controlPages(nil, r), zap.NewNop())()
	for _, result = range []error{nil, errors.New("the disk is on fire")} {
		c := command()
		c.SetArgs([]string{"ctl", "--control", control, "reload"})
		err := c.Execute()
		if (err == nil) != (result == nil) || err != nil && !strings.HasSuffix(err.Error(), "sizes: the disk is on fire") {
			t.Errorf("%v: ctl says %v", result, err)
		}
	}
}

// TestReloadWaits: reloads don't overlap, and who waits for another one does so
// for a bounded time.
func TestReloadWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reloader{log: zap.NewNop(), running: make(chan struct{}, 1)}
		gate := make(chan struct{})
		runs := 0
		r.add("slow", func(context.Context) error {
			runs++
			<-gate
			return nil
		})
		first := make(chan error, 1)
		go func() { first <- r.reload(t.Context()) }()
		synctest.Wait()
		start := time.Now()
		if err := r.reload(t.Context()); err == nil || time.Since(start) != reloadTimeout || runs != 1 {
			t.Errorf("got %v after %v and %d runs", err, time.Since(start), runs)
		}
		close(gate)
		if err := <-first; err != nil {
			t.Error(err)
		}
		if err := r.reload(t.Context()); err != nil || runs != 2 {
			t.Errorf("got %v after %d runs", err, runs)
		}
	})
}

// TestManyHangups: those that come during a reload are one more, however many
// they are, and nothing of it is left at the end.
func TestManyHangups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reloader{log: zap.NewNop(), hangups: make(chan os.Signal, 1), running: make(chan struct{}, 1)}
		gate := make(chan struct{})
		runs := 0
		r.add("slow", func(context.Context) error {
			runs++
			<-gate
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() {
			defer close(over)
			r.follow(ctx)
		}()
		for range 1000 {
			select { // as os/signal does
			case r.hangups <- syscall.SIGHUP:
			default:
			}
			synctest.Wait()
		}
		if runs != 1 {
			t.Errorf("%d reloads at a time", runs)
		}
		close(gate)
		synctest.Wait()
		if runs != 2 {
			t.Errorf("%d reloads", runs)
		}
		cancel()
		<-over
	})
}
