package exitwhen

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// patience bounds the wait for what should happen at once. It is far from any
// poll in these tests, so that what comes in time didn't come from polling.
const patience = 10 * time.Second

// unpolled are options with which nothing that depends on polling ends in time.
var unpolled = Options{Poll: time.Hour}

// TestMain fails the package if a goroutine of it outlives its tests.
func TestMain(m *testing.M) {
	code := m.Run()
	left := func() []string { return goroutines("nbdserver/exitwhen.", "") }
	for deadline := time.Now().Add(patience); len(left()) > 1 && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if l := left(); len(l) > 1 && code == 0 { // one of them is this one
		fmt.Println("goroutines are left:\n" + strings.Join(l, "\n\n"))
		code = 1
	}
	os.Exit(code)
}

// goroutines returns the stacks of those that are in the function and the state.
func goroutines(function, state string) []string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var found []string
	for _, stack := range strings.Split(string(buf), "\n\n") {
		header, _, _ := strings.Cut(stack, "\n")
		if strings.Contains(stack, function) && strings.Contains(header, state) {
			found = append(found, stack)
		}
	}
	return found
}

// eventually waits until the condition is true.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}

// watch is a Watch under way.
type watch struct {
	t      *testing.T
	result chan error
	cancel context.CancelFunc
}

func startWatch(t *testing.T, c Condition) *watch {
	ctx, cancel := context.WithCancel(t.Context())
	w := &watch{t: t, result: make(chan error, 1), cancel: cancel}
	go func() { w.result <- c.Watch(ctx) }()
	t.Cleanup(cancel)
	return w
}

// parked waits until the watch waits for the kernel: it has then dealt with
// everything that happened before and found that it isn't the condition.
func (w *watch) parked() *watch {
	w.t.Helper()
	eventually(w.t, "the watch waits for the kernel", func() bool {
		select {
		case err := <-w.result:
			w.t.Fatalf("Watch returned %v, should still wait", err)
		default:
		}
		return len(goroutines("exitwhen.await(", "[IO wait")) == 1
	})
	return w
}

// happens waits for the watch to report the condition.
func (w *watch) happens() {
	w.t.Helper()
	if err := w.wait(); err != nil {
		w.t.Fatalf("Watch: %v", err)
	}
}

// canceled cancels the watch and waits for it to return.
func (w *watch) canceled() {
	w.t.Helper()
	w.cancel()
	if err := w.wait(); !errors.Is(err, context.Canceled) {
		w.t.Fatalf("Watch: %v, want canceled", err)
	}
}

func (w *watch) wait() error {
	w.t.Helper()
	select {
	case err := <-w.result:
		return err
	case <-time.After(patience):
		w.t.Fatalf("Watch hasn't returned in %v", patience)
		return nil
	}
}

// made is for the constructors: it fails the test on error and closes the
// condition at its end.
func made(t *testing.T) func(Condition, error) Condition {
	return func(c Condition, err error) Condition {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if err := c.Close(); err != nil {
				t.Errorf("second Close: %v", err)
			}
		})
		return c
	}
}

func check(t *testing.T, c Condition, want bool) {
	t.Helper()
	got, err := c.Check(t.Context())
	if err != nil || got != want {
		t.Fatalf("Check of %v = %v, %v; want %v", c, got, err, want)
	}
}

// refused checks an error of a constructor: the words in it, and that it is one
// line.
func refused(t *testing.T, c Condition, err error, words string) {
	t.Helper()
	if err == nil {
		c.Close()
		t.Fatalf("no error, want %q", words)
	}
	if !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q, want one line with %q in it", err, words)
	}
}

// ok is for steps of a test that should not fail.
func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func observed() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.DebugLevel)
	return zap.New(core), logs
}
