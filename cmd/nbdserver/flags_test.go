package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/nbdexport/nbdexport/nbdserver"
)

func TestDurationOrInfinite(t *testing.T) {
	tests := []struct {
		in   string
		want time.Duration
		out  string
	}{
		{"infinite", nbdserver.Infinite, "infinite"},
		{"0s", 0, "0s"},
		{"0", 0, "0s"},
		{"90s", 90 * time.Second, "1m30s"},
		{"250ms", 250 * time.Millisecond, "250ms"},
	}
	for _, tt := range tests {
		var d durationOrInfinite
		if err := d.Set(tt.in); err != nil || time.Duration(d) != tt.want || d.String() != tt.out {
			t.Errorf("%q is %v, %q, %v; want %v, %q", tt.in, time.Duration(d), d.String(), err, tt.want, tt.out)
		}
	}
	for _, in := range []string{"", "30", "-1s", "-1ns", "Infinite", "inf", "ten minutes"} {
		d := durationOrInfinite(time.Minute)
		if err := d.Set(in); err == nil || time.Duration(d) != time.Minute {
			t.Errorf("%q is %v, %v; want an error", in, time.Duration(d), err)
		}
	}
}

func TestNewLogger(t *testing.T) {
	for _, format := range []string{"json", "console"} {
		for _, level := range []string{"debug", "info", "warn", "error"} {
			if log, err := newLogger(format, level); err != nil || log.Level().String() != level {
				t.Errorf("%s %s: level %v, %v", format, level, log.Level(), err)
			}
		}
	}
	for _, tt := range []struct{ format, level, flag string }{
		{"text", "info", "--log-format"},
		{"", "info", "--log-format"},
		{"json", "loud", "--log-level"},
		{"json", "fatal", "--log-level"},
		{"json", "panic", "--log-level"},
	} {
		if _, err := newLogger(tt.format, tt.level); err == nil || !strings.Contains(err.Error(), tt.flag+":") {
			t.Errorf("format %q, level %q: %v; want an error about %s", tt.format, tt.level, err, tt.flag)
		}
	}
}

func TestDrainPolicy(t *testing.T) {
	for name, want := range map[string]nbdserver.Policy{"refuse": nbdserver.Refuse, "disconnect": nbdserver.Disconnect} {
		f := serveFlags{policy: name, grace: durationOrInfinite(time.Second), timeout: durationOrInfinite(nbdserver.Infinite)}
		p, err := f.drainPolicy()
		if err != nil || *p != (nbdserver.DrainPolicy{Grace: time.Second, Timeout: nbdserver.Infinite, Policy: want}) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	if _, err := (serveFlags{policy: "kick"}).drainPolicy(); err == nil {
		t.Error("the policy kick was accepted")
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{"a": "a", "a\nb\n\n\tc  d\n": "a b c d", "\n": ""} {
		if got := oneLine(errorString(in)); got != want {
			t.Errorf("oneLine(%q) = %q, want %q", in, got, want)
		}
	}
}

type errorString string

func (e errorString) Error() string { return string(e) }

// help is what serve --help prints, in one line.
func help(t *testing.T) string {
	t.Helper()
	var out bytes.Buffer
	c := command()
	c.SetOut(&out)
	c.SetArgs([]string{"serve", "--help"})
	if err := c.Execute(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(out.String()), " ")
}

// TestHelp keeps the contract of the command line in sight: each flag in its
// place, what its argument is called, and how its default reads.
func TestHelp(t *testing.T) {
	out, at := help(t), 0
	for _, want := range []string{
		"[NAME=]SOURCE[,root=DIR][,access=read-only|read-write|copy-on-write] [,scratch=DIR][,scratch-size=SIZE][,format=raw|qcow2][,tls=require]",
		"--listen ADDRESS", "(default tcp://127.0.0.1:10809; with --run a private unix socket)", "--print-uri", "--pidfile FILE",
		"--stdio", "--run CMD", "--exit-with-parent",
		"--exit-when-file-created PATH", "--exit-when-file-deleted PATH", "--exit-when-pipe-closed FD|PATH",
		"--exit-when-process-exits PID", "--exit-when-script CMD", "--exit-when-idle DURATION",
		"--exit-when-last-client-leaves GRACE[=0s]", "--exit-when-deadline DURATION|TIME", "--exit-when-poll SECONDS", "(default 60)",
		"--drain-grace DURATION|infinite", "(default infinite)", "--drain-timeout DURATION|infinite", "(default infinite)",
		"--drain-policy POLICY", `(default "refuse")`, "--report FILE", "--once FILE",
		"--tls MODE", `(default "off")`, "--tls-certificates DIR", "--tls-verify-peer", "--tls-allow-san PATTERN",
		"--max-connections N", "(default 256)", "--max-connections-per-client N", "--handshake-timeout DURATION", "(default 10s)", "--allow ADDRESS",
		"--deny ADDRESS", "--rate SIZE[,burst=SIZE]", "--connection-rate SIZE[,burst=SIZE]", "--max-memory SIZE", "(default 512M)",
		"--max-connection-memory SIZE", "(default 64M)", "--config FILE",
		"--http HOST:PORT", "--control ADDRESS", "--log-format FORMAT", "--log-level LEVEL", "--help",
	} {
		i := strings.Index(out[at:], want)
		if i < 0 {
			t.Fatalf("the help lacks %q behind what it has so far:\n%s", want, out[at:])
		}
		at += i + len(want)
	}
	// What the list above doesn't know of yet.
	serveCommand().Flags().VisitAll(func(f *pflag.Flag) {
		switch name, usage := pflag.UnquoteUsage(f); {
		case usage == "" || strings.HasSuffix(usage, "."):
			t.Errorf("--%s: %q", f.Name, usage)
		case name != "" && name != strings.ToUpper(name) && !strings.HasSuffix(name, "|infinite") && !strings.HasSuffix(name, "[,burst=SIZE]"):
			t.Errorf("--%s has an argument that is called %s", f.Name, name)
		}
	})
}

// TestFlagsAreDocumented: every flag is in the guide.
func TestFlagsAreDocumented(t *testing.T) {
	guide, err := os.ReadFile("../../docs/nbdserver.md")
	if err != nil {
		t.Fatal(err)
	}
	serveCommand().Flags().VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(string(guide), "--"+f.Name) {
			t.Errorf("docs/nbdserver.md lacks --%s", f.Name)
		}
	})
}

// run runs a command line that must be wrong.
func run(t *testing.T, args ...string) string {
	t.Helper()
	c := command()
	c.SetArgs(args)
	c.SetOut(io.Discard)
	err := c.Execute()
	if err == nil {
		t.Errorf("%q is right", args)
		return ""
	}
	return oneLine(err)
}

// TestEmptyValues: a flag without its value, a variable that isn't set for
// example, is never taken for a flag that isn't there.
func TestEmptyValues(t *testing.T) {
	args := []string{"serve", "memory:1M", "--exit-when-deadline", "2001-01-01T00:00:00Z"} // none of them serves
	serveCommand().Flags().VisitAll(func(f *pflag.Flag) {
		if got := run(t, append(args, "--"+f.Name+"=")...); !strings.HasPrefix(got, "--"+f.Name+": ") {
			t.Errorf("--%s=: %s", f.Name, got)
		}
	})
	if got := run(t, append(args, "--deny", "192.0.2.1", "--deny", "")...); !strings.HasPrefix(got, "--deny: ") {
		t.Error(got)
	}
}

func TestFlagErrors(t *testing.T) {
	for args, want := range map[string]string{
		"--exit-when-poll 5s":    `--exit-when-poll: "5s" is no number, or too large: write a whole one`,
		"--handshake-timeout 10": `--handshake-timeout: "10" is no duration: write one like 10s`,
		"--drain-grace 10":       `--drain-grace: "10" is no duration: write one like 30s, 5m or 0s, or infinite`,
		"--stdio=maybe":          `--stdio: "maybe" is neither true nor false: leave it out`,
		"--max-memory 1X":        `--max-memory: "1X" is no size: write a number of bytes from 1 on, or one with K, M, G, T or P`,
		"--bogus":                `unknown flag: --bogus: see nbdserver serve --help`,
		"--listen":               `flag needs an argument: --listen: see nbdserver serve --help`,
	} {
		if got := run(t, append([]string{"serve", "memory:1M"}, strings.Fields(args)...)...); got != want {
			t.Errorf("%s: %s; want %s", args, got, want)
		}
	}
}

// TestUsageErrorsComeFirst: a command line that is wrong costs no report of an
// earlier run, and isn't taken for right because it is over already.
func TestUsageErrorsComeFirst(t *testing.T) {
	dir := t.TempDir()
	report, over := filepath.Join(dir, "report"), filepath.Join(dir, "over")
	if err := os.WriteFile(over, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"memory:big"}, {"memory:1M", "memory:1M"}, {"memory:1M,tls=require"},
		{"--listen", "here"}, {"--listen", "tcp://127.0.0.1:70000"}, {"--listen", "unix:///" + strings.Repeat("x", 107)},
		{"--http", "here"}, {"--control", "tcp://127.0.0.1:0"}, {"--stdio", "--run", "true"}, {"--stdio", "--print-uri"},
		{"--exit-when-poll", "0"}, {"--exit-when-poll", "9223372037"}, {"--exit-when-idle", "soon"}, {"--exit-when-deadline", "soon"}, {"--exit-when-process-exits", "0"},
		{"--drain-policy", "kick"}, {"--log-level", "loud"},
		{"--pidfile", dir}, {"--pidfile", dir + "/nowhere/pid"}, {"--pidfile", "/dev/null"}, {"--once", dir}, {"--once", "/dev/null"}, {"--once", dir + "/nowhere/once"},
		{"--tls", "yes"}, {"--tls", "on"}, {"--tls-verify-peer"}, {"--tls", "on", "--tls-certificates", dir, "--tls-verify-peer", "--tls-allow-san", "x"},
		{"--allow", "nobody"}, {"--max-connections", "0"}, {"--max-memory", "1M"}, {"--rate", "1M,burst=1"},
	} {
		if err := os.WriteFile(report, []byte("of an earlier run"), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, append([]string{"serve", "disk=memory:1M", "--report", report, "--exit-when-file-created", over}, args...)...)
		if b, _ := os.ReadFile(report); string(b) != "of an earlier run" {
			t.Errorf("%q: the report is %q", args, b)
		}
	}
	for _, report := range []string{dir, dir + "/nowhere/report"} {
		if got := run(t, "serve", "memory:1M", "--exit-when-file-created", over, "--report", report); !strings.HasPrefix(got, "--report: ") {
			t.Errorf("%s: %s", report, got)
		}
	}
}
