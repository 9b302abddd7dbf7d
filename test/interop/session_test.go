package interop

import (
	"bufio"
	"bytes"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// session is a program that is told what to do line by line.
type session struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Scanner
	err   bytes.Buffer
}

func converse(t *testing.T, name string, args ...string) *session {
	t.Helper()
	p := &session{t: t, cmd: command(t, name, args...)}
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewScanner(stdout)
	p.cmd.Stderr = &p.err
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.stdin.Close()
		_ = p.cmd.Process.Kill() // it may have ended
		_ = p.cmd.Wait()
	})
	return p
}

// converseWithPython starts a script of testdata.
func converseWithPython(t *testing.T, script string, args ...string) *session {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", script))
	if err != nil {
		t.Fatal(err)
	}
	return converse(t, python, append([]string{path}, args...)...)
}

func (p *session) say(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		p.t.Fatalf("%q: %v", line, err)
	}
}

// hear returns the next line that has one of the words in it.
func (p *session) hear(words ...string) string {
	p.t.Helper()
	for p.out.Scan() {
		for _, w := range words {
			if strings.Contains(p.out.Text(), w) {
				return p.out.Text()
			}
		}
	}
	_ = p.cmd.Wait() // for what it says about that
	p.t.Fatalf("%s has ended without a word of %q: %s", p.cmd.Path, words, p.err.String())
	return ""
}

// run lets driver.py run lines of Python. They must succeed.
func (p *session) run(lines ...string) {
	p.t.Helper()
	for _, line := range lines {
		if got := p.fails(line); got != "ok" {
			p.t.Fatalf("%s: %s", line, got)
		}
	}
}

// fails lets driver.py run a line of Python, and returns the error.
func (p *session) fails(line string) string {
	p.t.Helper()
	p.say(line)
	return p.hear("")
}
