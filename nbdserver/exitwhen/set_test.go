package exitwhen

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// timed is a condition that happens at a time.
type timed struct {
	name     string
	after    time.Duration // from the start of Watch; negative for never
	already  bool
	err      error         // what Watch and Check return instead
	lingers  time.Duration // how long Watch takes to return when canceled
	late     bool          // it happens just then
	checked  int
	watching bool
	closed   int
}

func (c *timed) String() string { return c.name }

func (c *timed) Check(context.Context) (bool, error) {
	c.checked++
	return c.already, c.err
}

func (c *timed) Watch(ctx context.Context) error {
	if c.err != nil {
		return c.err
	}
	c.watching = true
	defer func() { c.watching = false }()
	if c.after < 0 {
		<-ctx.Done()
		time.Sleep(c.lingers)
		if c.late {
			return nil
		}
		return ctx.Err()
	}
	return sleep(ctx, c.after)
}

func (c *timed) Close() error {
	c.closed++
	return c.err
}

func TestSetCheck(t *testing.T) {
	a := &timed{name: "a"}
	b := &timed{name: "b", err: errors.New("broken")}
	c := &timed{name: "c", already: true}
	d := &timed{name: "d", already: true}
	log, logs := observed()
	s := NewSet(log, a, b, c, d)
	for range 2 {
		e, already, err := s.Check(t.Context())
		if err != nil || !already || e.Condition != "c" || e.At.IsZero() {
			t.Fatalf("Check = %v, %v, %v; want c", e, already, err)
		}
	}
	if a.checked != 1 || b.checked != 1 || c.checked != 1 || d.checked != 0 {
		t.Errorf("checked %d, %d, %d, %d times; want 1, 1, 1, 0", a.checked, b.checked, c.checked, d.checked)
	}
	if logs.FilterMessageSnippet("can't be checked").Len() != 1 {
		t.Errorf("logged %v", logs.All())
	}
	if e, err := s.Watch(t.Context()); err != nil || e.Condition != "c" {
		t.Errorf("Watch = %v, %v; want c", e, err)
	}
}

func TestSetCheckCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := NewSet(nil, &timed{name: "a", err: ctx.Err()}, &timed{name: "b", already: true})
	if e, already, err := s.Check(ctx); already || !errors.Is(err, context.Canceled) {
		t.Errorf("Check = %v, %v, %v; want canceled", e, already, err)
	}
}

func TestSetWatch(t *testing.T) {
	for _, tt := range []struct {
		name       string
		conditions []*timed
		want       string // condition; empty for none within the day
		at         time.Duration
	}{
		{"none", nil, "", 0},
		{"one", []*timed{{name: "a", after: time.Minute}}, "a", time.Minute},
		{"first of several", []*timed{{name: "a", after: time.Hour}, {name: "b", after: time.Minute}, {name: "c", after: 2 * time.Minute}}, "b", time.Minute},
		{"never", []*timed{{name: "a", after: -1}}, "", 0},
		{"the others aren't waited for", []*timed{{name: "a", after: time.Minute}, {name: "b", after: -1, lingers: 900 * time.Millisecond}}, "a", time.Minute},
		{"the first one counts", []*timed{{name: "a", after: time.Minute}, {name: "b", after: -1, lingers: 900 * time.Millisecond, late: true}}, "a", time.Minute},
		{"a broken one is no event", []*timed{{name: "a", err: errors.New("broken")}, {name: "b", after: time.Minute}}, "b", time.Minute},
		{"nothing but a broken one", []*timed{{name: "a", err: errors.New("broken")}}, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var conditions []Condition
				for _, c := range tt.conditions {
					conditions = append(conditions, c)
				}
				log, logs := observed()
				s := NewSet(log, conditions...)
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
				defer cancel()
				e, err := s.Watch(ctx)
				if tt.want == "" {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("Watch = %v, %v; want none", e, err)
					}
				} else if err != nil || e.Condition != tt.want || e.At.Sub(start) != tt.at {
					t.Errorf("Watch = %v, %v; want %s after %v", e, err, tt.want, tt.at)
				}
				if waited := time.Since(start); tt.want != "" && waited != tt.at {
					t.Errorf("Watch returned after %v", waited)
				}
				broken := slices.ContainsFunc(tt.conditions, func(c *timed) bool { return c.err != nil })
				if n := logs.FilterMessageSnippet("can't be watched").Len(); (n == 1) != broken || logs.Len() > 1 {
					t.Errorf("logged %v", logs.All())
				}
				if tt.want != "" { // latched
					if again, err := s.Watch(ctx); err != nil || again != e {
						t.Errorf("second Watch = %v, %v; want %v", again, err, e)
					}
					if again, already, err := s.Check(ctx); err != nil || !already || again != e {
						t.Errorf("Check after Watch = %v, %v, %v; want %v", again, already, err, e)
					}
				}
				cancel()
				_ = s.Close() // the error of a broken one
				for _, c := range tt.conditions {
					if c.watching || c.closed != 1 {
						t.Errorf("%s: watching is %v, closed %d times", c.name, c.watching, c.closed)
					}
				}
			})
		})
	}
}

func TestSetClose(t *testing.T) {
	a, b, c := &timed{}, &timed{err: errors.New("stuck")}, &timed{}
	if err := NewSet(nil, a, b, c).Close(); err == nil || err.Error() != "stuck" {
		t.Errorf("Close: %v, want stuck", err)
	}
	if a.closed != 1 || b.closed != 1 || c.closed != 1 {
		t.Error("not every condition was closed once")
	}
}

func TestSetCloseDoesNotHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &timed{name: "a", after: -1, lingers: time.Hour}
		s := NewSet(nil, c)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if e, err := s.Watch(ctx); err == nil {
			t.Errorf("Watch = %v", e)
		}
		if err := s.Close(); err == nil || c.closed != 0 {
			t.Errorf("Close = %v, closed %d times while it is watched", err, c.closed)
		}
		if d := time.Since(start); d != time.Minute+closeTimeout {
			t.Errorf("it took %v", d)
		}
		time.Sleep(2 * time.Hour)
	})
}

// One of each kind, watched together; each in turn is the one that happens.
func TestSetOfAllKinds(t *testing.T) {
	kinds := []string{"file-created", "file-deleted", "pipe-closed descriptor", "pipe-closed FIFO", "process-exits", "script"}
	for i, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			touch(t, dir+"/there")
			r, w := pipe(t)
			pid, stdin, _ := process(t)
			set := NewSet(nil,
				made(t)(FileCreated(dir+"/stop", unpolled)),
				made(t)(FileDeleted(dir+"/there", unpolled)),
				made(t)(PipeClosed(itoa(r), unpolled)),
				made(t)(PipeClosed(dir+"/fifo", unpolled)),
				made(t)(ProcessExits(itoa(pid), unpolled)),
				made(t)(Script("test -e "+dir+"/88 && exit 88 || exit 0", Options{Poll: 100 * time.Millisecond})),
			)
			fifo, err := os.OpenFile(dir+"/fifo", os.O_WRONLY, 0)
			ok(t, err)
			defer fifo.Close()
			if e, already, err := set.Check(t.Context()); already || err != nil {
				t.Fatalf("Check = %v, %v, %v", e, already, err)
			}

			type result struct {
				event Event
				err   error
			}
			results := make(chan result, 1)
			go func() {
				e, err := set.Watch(t.Context())
				results <- result{e, err}
			}()
			eventually(t, "all wait", func() bool { return len(goroutines("exitwhen.await(", "[IO wait")) == 5 })
			happen := []func() error{
				func() error { return os.WriteFile(dir+"/stop", nil, 0o600) },
				func() error { return os.Remove(dir + "/there") },
				w.Close,
				fifo.Close,
				stdin.Close,
				func() error { return os.WriteFile(dir+"/88", nil, 0o600) },
			}
			ok(t, happen[i]())
			select {
			case got := <-results:
				if got.err != nil || got.event.Condition != set.conditions[i].String() {
					t.Errorf("Watch = %v, %v; want %v", got.event, got.err, set.conditions[i])
				}
			case <-time.After(patience):
				t.Fatal("not noticed")
			}
			ok(t, set.Close())
			if n := len(goroutines("exitwhen.await(", "")); n != 0 {
				t.Errorf("%d goroutines still watch", n)
			}
		})
	}
}

// Whatever is made, watched, canceled and closed leaves no descriptor behind.
func TestNoDescriptorLeaks(t *testing.T) {
	dir := t.TempDir()
	r, _ := pipe(t)
	pid, _, _ := process(t)
	round := func() {
		var conditions []Condition
		add := func(c Condition, err error) {
			ok(t, err)
			conditions = append(conditions, c)
		}
		add(FileCreated(dir+"/a/stop", unpolled))
		add(FileDeleted(dir, unpolled))
		add(PipeClosed(itoa(r), unpolled))
		add(PipeClosed(dir+"/fifo", unpolled))
		add(ProcessExits(itoa(pid), unpolled))
		add(Script("exit 0", unpolled))
		for _, arg := range []string{"9999", "/dev/null", dir + "/missing/fifo"} {
			if c, err := PipeClosed(arg, unpolled); err == nil {
				c.Close()
				t.Fatal("no error")
			}
		}
		set := NewSet(nil, conditions...)
		_, already, err := set.Check(t.Context())
		if already || err != nil {
			t.Fatalf("Check: %v, %v", already, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := set.Watch(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Watch: %v", err)
		}
		ok(t, set.Close())
		ok(t, set.Close())
	}
	round() // the runtime opens some for itself
	before := descriptors(t)
	for range 20 {
		round()
	}
	// One that another test has forgotten may be closed meanwhile.
	if after := descriptors(t); len(after) > len(before) {
		t.Errorf("open descriptors were %q, are %q", before, after)
	}
}

// However few descriptors are left, what can't be made is an error, and nothing
// is left open.
func TestOutOfDescriptors(t *testing.T) {
	dir := t.TempDir()
	r, _ := pipe(t)
	pid, _, _ := process(t)
	log, logs := observed()
	for _, tt := range []struct {
		what string
		make func() (Condition, error)
	}{
		{"file", func() (Condition, error) {
			c, err := FileCreated(dir+"/stop", Options{Log: log})
			check(t, c, false)
			return c, err
		}},
		{"pipe", func() (Condition, error) { return PipeClosed(itoa(r), unpolled) }},
		{"FIFO", func() (Condition, error) { return PipeClosed(dir+"/fifo", unpolled) }},
		{"process", func() (Condition, error) { return ProcessExits(itoa(pid), unpolled) }},
	} {
		before := descriptors(t)
		const enough = 100 // others may lie between, from whoever started this process
		made := false
		for left := 0; left < enough && !made; left++ {
			restore := limitDescriptors(t, left)
			c, err := tt.make()
			restore()
			if made = err == nil; made {
				ok(t, c.Close())
			} else if !errors.Is(err, unix.EMFILE) {
				t.Errorf("%s with %d descriptors left: %v", tt.what, left, err)
			}
		}
		if !made {
			t.Errorf("%s: not made with %d descriptors left", tt.what, enough)
		}
		if after := descriptors(t); len(after) > len(before) {
			t.Errorf("%s: open descriptors were %q, are %q", tt.what, before, after)
		}
	}
	if logs.Len() != 1 || !strings.Contains(logs.All()[0].ContextMap()["error"].(string), "fs.inotify.max_user_instances") {
		t.Errorf("logged %v, want which limit to raise", logs.All())
	}
}

// limitDescriptors leaves that many numbers to descriptors that are opened.
func limitDescriptors(t *testing.T, left int) (restore func()) {
	t.Helper()
	lowest, err := unix.Dup(0)
	ok(t, err)
	ok(t, unix.Close(lowest))
	var was unix.Rlimit
	ok(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &was))
	ok(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(lowest + left), Max: was.Max}))
	return func() { ok(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &was)) }
}

// descriptors lists what is open: number and target.
func descriptors(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	ok(t, err)
	var open []string
	for _, e := range entries {
		// The one that was open to read the directory is gone.
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			open = append(open, e.Name()+" "+target)
		}
	}
	return open
}
