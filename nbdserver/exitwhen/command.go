package exitwhen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	defaultTimeout = 30 * time.Second
	maxTimeoutSecs = 3600

	// outputKept is how much of a script's output goes into the log, in bytes.
	outputKept = 1 << 10

	// pipeDelay is how long after the script's end its output is awaited, if
	// a process that it left behind still holds the pipe.
	pipeDelay = 500 * time.Millisecond
)

// command is a script's argument, parsed.
type command struct {
	args    []string // the program and its arguments, without a shell
	timeout time.Duration
}

// parseScript reads the argument of exit-when-script, see Script.
func parseScript(arg string) (command, error) {
	if strings.TrimSpace(arg) == "" {
		return command{}, errNoScript
	}
	c := command{args: []string{"/bin/sh", "-c", arg}, timeout: defaultTimeout}
	if strings.HasPrefix(arg, "{") {
		var err error
		if c, err = parseJSON(arg); err != nil {
			return command{}, fmt.Errorf(`%w: write {"command":["/path","arg"],"timeoutSeconds":30}, or a space before a shell command that begins with {`, err)
		}
	}
	for _, a := range c.args {
		if strings.ContainsRune(a, 0) {
			return command{}, fmt.Errorf("the script's argument %q has a zero byte in it: give it without", a)
		}
	}
	return c, nil
}

// parseJSON reads field by field, because encoding/json would take a name in
// the wrong case for the right one.
func parseJSON(arg string) (command, error) {
	c := command{timeout: defaultTimeout}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(arg), &fields); err != nil {
		return command{}, fmt.Errorf("the script isn't a JSON object: %w", err)
	}
	for name, value := range fields {
		switch name {
		case "command":
			var err error
			if c.args, err = parseArgs(value); err != nil {
				return command{}, err
			}
		case "timeoutSeconds":
			var secs int
			if err := json.Unmarshal(value, &secs); err != nil || secs < 1 || secs > maxTimeoutSecs {
				return command{}, fmt.Errorf("the script's timeoutSeconds isn't a whole number from 1 to %d", maxTimeoutSecs)
			}
			c.timeout = time.Duration(secs) * time.Second
		default:
			return command{}, fmt.Errorf("the script has an unknown field %q", name)
		}
	}
	if len(c.args) == 0 || c.args[0] == "" {
		return command{}, errors.New("the script's command is empty")
	}
	return c, nil
}

func parseArgs(value json.RawMessage) ([]string, error) {
	var elements []*string // null would otherwise be an empty string
	err := json.Unmarshal(value, &elements)
	if err != nil || slices.Contains(elements, nil) {
		return nil, errors.New("the script's command isn't a list of strings")
	}
	args := make([]string, len(elements))
	for i, e := range elements {
		args[i] = *e
	}
	return args, nil
}

// run runs the command to its end, until its timeout or until ctx ends.
func (c command) run(ctx context.Context) outcome {
	running, stop := context.WithTimeout(ctx, c.timeout)
	defer stop()
	var output tail
	cmd := exec.CommandContext(running, c.args[0], c.args[1:]...)
	cmd.Stdout, cmd.Stderr = &output, &output
	// What a shell has started doesn't end with the shell: it has a process
	// group of its own, and the whole group is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = pipeDelay

	err := cmd.Run()
	if cmd.Process != nil {
		reap(cmd.Process.Pid)
	}
	o := outcome{code: codeNotExited, err: err, output: output.String()}
	switch {
	case cmd.ProcessState != nil && cmd.ProcessState.Exited():
		// Whatever else went wrong, such as the output's pipe being held.
		o.code, o.err = cmd.ProcessState.ExitCode(), nil
	case running.Err() != nil && ctx.Err() == nil:
		o.err = fmt.Errorf("it was killed after %v, its timeout", c.timeout)
	}
	return o
}

// tail is a writer that keeps the last outputKept bytes.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p[max(0, len(p)-outputKept):]...)
	t.kept = append(t.kept[:0], t.kept[max(0, len(t.kept)-outputKept):]...)
	return len(p), nil
}

// String is what was kept, as text that can be logged.
func (t *tail) String() string {
	return strings.ToValidUTF8(string(bytes.TrimSpace(t.kept)), "\uFFFD")
}
