package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

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

// TestHelp keeps the contract of the command line in sight: each flag, and how
// its default reads.
func TestHelp(t *testing.T) {
	var out bytes.Buffer
	c := command()
	c.SetOut(&out)
	c.SetArgs([]string{"serve", "--help"})
	if err := c.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"[NAME=]SOURCE[,root=DIR][,access=read-only|read-write|copy-on-write]\n[,scratch=DIR][,scratch-size=SIZE][,tls=require]",
		"--listen", "(default tcp://127.0.0.1:10809; with --run a private unix socket)", "--http", "--control",
		"--exit-when-file-created", "--exit-when-file-deleted", "--exit-when-pipe-closed",
		"--exit-when-process-exits", "--exit-when-script", "--exit-when-idle",
		"--exit-when-last-client-leaves", "[=0s]", "--exit-when-deadline", "--stdio", "--run", "--exit-with-parent", "--exit-when-poll", "(default 60)",
		"--drain-grace DURATION|infinite", "--drain-timeout DURATION|infinite", "(default infinite)",
		"--drain-policy", `(default "refuse")`, "--report", "--once", "--pidfile", "--print-uri", "--tls ", `(default "off")`, "--tls-certificates", "--tls-verify-peer", "--tls-allow-san", "--log-format", "--log-level",
		"--max-connections int", "(default 256)", "--max-connections-per-client", "--handshake-timeout", "(default 10s)", "--allow ADDRESS",
		"--deny ADDRESS", "--rate SIZE[,burst=SIZE]", "--connection-rate", "--max-memory SIZE", "(default 512M)",
		"--max-connection-memory", "(default 64M)", "--config",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the help lacks %q:\n%s", want, out.String())
		}
	}
}
