package exitwhen

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The table of nbdkit-exitwhen-filter(1), and how else a script can end.
func TestScriptOutcomes(t *testing.T) {
	for _, tt := range []struct {
		arg      string
		happened bool
		logged   string // in the error; empty for nothing logged
		output   string
	}{
		{"exit 0", false, "", ""},
		{"echo fine; exit 0", false, "", ""},
		{"exit 1", false, "it exited with code 1", ""},
		{"echo out; echo err >&2; exit 87", false, "it exited with code 87", "out\nerr"},
		{"exit 88", true, "", ""},
		{"exit 89", false, "code 89, which is reserved", ""},
		{"exit 255", false, "code 255, which is reserved", ""},
		{"no-such-command", false, "code 127, which is reserved", "no-such-command"},
		{"kill -TERM $$", false, "signal: terminated", ""},
		{"kill -KILL $$", false, "signal: killed", ""},
		{"read x && exit 1; exit 88", true, "", ""}, // the standard input is empty
		{`test "$EXITWHEN_TEST" = inherited && exit 88`, true, "", ""},
		{"{ exit 88; }", false, "", ""}, // refused, see TestScriptRefused
		{" { exit 88; }", true, "", ""},
		{`{"command":["/bin/sh","-c","exit $1","x","88"]}`, true, "", ""},
		{`{"command":["sh","-c","exit 88"]}`, true, "", ""},
		{`{"command":["echo","$HOME; exit 88"]}`, false, "", ""}, // no shell
		{`{"command":["/no/such/program"]}`, false, "no such file", ""},
		{`{"command":["sleep","1000"],"timeoutSeconds":1}`, false, "killed after 1s", ""},
	} {
		t.Run(tt.arg, func(t *testing.T) {
			t.Setenv("EXITWHEN_TEST", "inherited")
			log, logs := observed()
			c, err := Script(tt.arg, Options{Log: log})
			if strings.HasPrefix(tt.arg, "{ ") {
				refused(t, c, err, "a space before a shell command")
				return
			}
			c = made(t)(c, err)
			check(t, c, tt.happened)
			if c.String() != "script="+tt.arg {
				t.Errorf("String() = %q", c)
			}
			if tt.logged == "" {
				if logs.Len() != 0 {
					t.Errorf("logged %v, want nothing", logs.All())
				}
				return
			}
			if logs.Len() != 1 {
				t.Fatalf("logged %v, want one line", logs.All())
			}
			line := logs.All()[0]
			fields := line.ContextMap()
			if line.Level.String() != "error" || fields["condition"] != c.String() ||
				!strings.Contains(fields["error"].(string), tt.logged) || !strings.Contains(fields["output"].(string), tt.output) {
				t.Errorf("logged %v %v, want the error %q and the output %q", line.Level, fields, tt.logged, tt.output)
			}
		})
	}
}

func TestScriptWatch(t *testing.T) {
	c := made(t)(Script("exit 88", unpolled))
	startWatch(t, c).happens()
	check(t, c, true)
}

func TestScriptCanceled(t *testing.T) {
	log, logs := observed()
	c := made(t)(Script("echo begun; sleep 1000", Options{Poll: time.Hour, Log: log}))
	w := startWatch(t, c)
	eventually(t, "the script runs", func() bool { return len(goroutines("os/exec.(*Cmd).Wait", "")) > 0 })
	w.canceled()
	if logs.Len() != 0 {
		t.Errorf("logged %v, want nothing of a script that we ended", logs.All())
	}
}

// scripted is a script whose runs take and return what the test says.
type scripted struct {
	*script
	start  time.Time
	starts []time.Duration // since the beginning, of each run
	active int
}

func newScripted(t *testing.T, poll time.Duration, run func(ctx context.Context, n int) int) *scripted {
	s := &scripted{start: time.Now()}
	log, _ := observed()
	s.script = &script{name: "script=x", poll: poll, log: log, run: func(ctx context.Context) outcome {
		if s.active++; s.active > 1 {
			t.Error("two runs at the same time")
		}
		defer func() { s.active-- }()
		s.starts = append(s.starts, time.Since(s.start))
		return outcome{code: run(ctx, len(s.starts)), err: errors.New("not exited")}
	}}
	return s
}

func TestScriptCadence(t *testing.T) {
	const poll = time.Minute
	for _, tt := range []struct {
		name   string
		check  bool // before Watch
		takes  time.Duration
		codes  []int
		starts []time.Duration
	}{
		{"at once, then every poll", false, 0, []int{0, 1, 89, 88}, []time.Duration{0, poll, 2 * poll, 3 * poll}},
		{"Check is the first run", true, 0, []int{0, 0, 88}, []time.Duration{0, poll, 2 * poll}},
		{"from start to start", true, 20 * time.Second, []int{0, 0, 88}, []time.Duration{0, poll, 2 * poll}},
		{"slower than the poll", false, 90 * time.Second, []int{0, 0, 88}, []time.Duration{0, 150 * time.Second, 300 * time.Second}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScripted(t, poll, func(_ context.Context, n int) int {
					time.Sleep(tt.takes)
					return tt.codes[n-1]
				})
				if tt.check {
					check(t, s, false)
				}
				ok(t, s.Watch(t.Context()))
				if !slices.Equal(s.starts, tt.starts) {
					t.Errorf("runs began at %v, want %v", s.starts, tt.starts)
				}
				// It has happened: nothing runs any more.
				check(t, s, true)
				ok(t, s.Watch(t.Context()))
				if len(s.starts) != len(tt.starts) {
					t.Errorf("ran again after it had happened")
				}
			})
		})
	}
}

func TestScriptCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s := newScripted(t, time.Minute, func(ctx context.Context, _ int) int {
			<-ctx.Done()
			return codeNotExited
		})
		if err := s.Watch(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Watch: %v, want ctx's error", err)
		}
		if happened, err := s.Check(ctx); happened || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Check: %v, %v, want ctx's error", happened, err)
		}
	})
}

func TestScriptRefused(t *testing.T) {
	for _, tt := range []struct{ arg, words string }{
		{"", "no script given"},
		{" \t", "no script given"},
		{"echo a\x00b", "zero byte"},
		{"{", "isn't a JSON object"},
		{"{ exit 88; }", "a space before a shell command"},
		{`{"command":["x"]} x`, "isn't a JSON object"},
		{"{}", "command is empty"},
		{`{"command":[]}`, "command is empty"},
		{`{"command":null}`, "command is empty"},
		{`{"command":[""]}`, "command is empty"},
		{`{"command":["x",null]}`, "isn't a list of strings"},
		{`{"command":["x",1]}`, "isn't a list of strings"},
		{`{"command":"x"}`, "isn't a list of strings"},
		{`{"command":["x","\u0000"]}`, "zero byte"},
		{`{"Command":["x"]}`, `unknown field "Command"`},
		{`{"command":["x"],"timeout":1}`, `unknown field "timeout"`},
		{`{"command":["x"],"timeoutSeconds":0}`, "from 1 to 3600"},
		{`{"command":["x"],"timeoutSeconds":3601}`, "from 1 to 3600"},
		{`{"command":["x"],"timeoutSeconds":-1}`, "from 1 to 3600"},
		{`{"command":["x"],"timeoutSeconds":1.5}`, "from 1 to 3600"},
		{`{"command":["x"],"timeoutSeconds":"1"}`, "from 1 to 3600"},
		{`{"command":["x"],"timeoutSeconds":null}`, "from 1 to 3600"},
	} {
		c, err := Script(tt.arg, unpolled)
		refused(t, c, err, tt.words)
	}
}
