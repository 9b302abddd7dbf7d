package exitwhen

import (
	"context"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestParseScript(t *testing.T) {
	for _, tt := range []struct {
		arg  string
		want command
	}{
		{"true", command{[]string{"/bin/sh", "-c", "true"}, 30 * time.Second}},
		{`{"command":["a","", "b c"]}`, command{[]string{"a", "", "b c"}, 30 * time.Second}},
		{`{"timeoutSeconds":1,"command":["a"]}`, command{[]string{"a"}, time.Second}},
		{`{"command":["a"],"timeoutSeconds":3600}`, command{[]string{"a"}, time.Hour}},
	} {
		got, err := parseScript(tt.arg)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("parseScript(%q) = %v, %v; want %v", tt.arg, got, err, tt.want)
		}
	}
}

// What is accepted can be run, within the bounds that are promised, and means
// the same when it is written out in full.
func FuzzScript(f *testing.F) {
	f.Fuzz(func(t *testing.T, arg string) {
		c, err := parseScript(arg)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("the error has several lines: %q", err)
			}
			return
		}
		if len(c.args) == 0 || c.args[0] == "" || strings.Contains(strings.Join(c.args, ""), "\x00") {
			t.Fatalf("can't be run: %q", c.args)
		}
		if c.timeout < time.Second || c.timeout > time.Hour || c.timeout%time.Second != 0 {
			t.Fatalf("timeout %v", c.timeout)
		}
		if !strings.HasPrefix(arg, "{") {
			if c.args[2] != arg {
				t.Fatalf("the shell gets %q", c.args[2])
			}
			return
		}
		full, err := json.Marshal(map[string]any{"command": c.args, "timeoutSeconds": int(c.timeout.Seconds())})
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseScript(string(full)); err != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("%s is %v, %v; want %v", full, again, err, c)
		}
	})
}

func TestCommandTimeoutKillsTheGroup(t *testing.T) {
	c := command{[]string{"sh", "-c", "sleep 1000 & echo $!; wait"}, 300 * time.Millisecond}
	o := c.run(t.Context())
	if o.code != codeNotExited || o.err == nil || !strings.Contains(o.err.Error(), "killed after 300ms") {
		t.Errorf("outcome %+v, want killed", o)
	}
	child, err := ProcessExits(o.output, unpolled)
	if err != nil { // nobody left
		return
	}
	startWatch(t, made(t)(child, err)).happens() // it is being killed, or a zombie
}

// What was said before the end by force is kept. Waiting for a file shows that it
// was said, however long the shell takes to begin.
func TestCommandKilledKeepsItsOutput(t *testing.T) {
	said := t.TempDir() + "/said"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan outcome, 1)
	go func() {
		ended <- command{[]string{"sh", "-c", "echo begun; : > " + said + "; sleep 1000"}, time.Hour}.run(ctx)
	}()
	eventually(t, "the script has begun", func() bool {
		_, err := os.Stat(said)
		return err == nil
	})
	cancel()
	if o := <-ended; o.code != codeNotExited || o.output != "begun" {
		t.Errorf("outcome %+v, want begun and killed", o)
	}
}

// A process left behind that holds the output keeps neither the outcome nor us.
func TestCommandLeavesProcessBehind(t *testing.T) {
	c := command{[]string{"sh", "-c", "sleep 1000 & echo $!; exit 88"}, time.Hour}
	o := c.run(t.Context())
	if o.code != codeHappened || o.err != nil {
		t.Errorf("outcome %+v, want code 88", o)
	}
	child := made(t)(ProcessExits(o.output, unpolled))
	check(t, child, false)
	var pid int
	ok(t, json.Unmarshal([]byte(o.output), &pid))
	ok(t, syscall.Kill(pid, syscall.SIGKILL))
	startWatch(t, child).happens()
}

func TestCommandOutputIsBounded(t *testing.T) {
	c := command{[]string{"sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x; printf 'the \\377 end\\n'; exit 1"}, time.Minute}
	o := c.run(t.Context())
	if o.code != 1 || len(o.output) > outputKept+len("\uFFFD") || !strings.HasSuffix(o.output, "xxxthe \uFFFD end") {
		t.Errorf("code %d, %d bytes of output: %q", o.code, len(o.output), o.output)
	}
}

func TestTail(t *testing.T) {
	var text tail
	var all strings.Builder
	for i := range 300 {
		part := strings.Repeat(string(rune('a'+i%26)), i)
		all.WriteString(part)
		if n, err := text.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
		want := all.String()[max(0, all.Len()-outputKept):]
		if text.String() != want {
			t.Fatalf("kept %q, want %q", text.String(), want)
		}
	}
}
