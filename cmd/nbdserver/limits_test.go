package main

import (
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/nbdexport/nbdexport/nbdserver"
)

// limitsOf reads limits from a command line.
func limitsOf(args ...string) (nbdserver.Limits, error) {
	var f limitFlags
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	f.register(fs)
	if err := fs.Parse(args); err != nil {
		return nbdserver.Limits{}, err
	}
	return f.limits()
}

// defaultLimits are those of no flags.
var defaultLimits = nbdserver.Limits{MaxConnections: 256, HandshakeTimeout: 10 * time.Second, MaxMemory: 512 << 20, MaxConnectionMemory: 64 << 20}

func TestLimitFlags(t *testing.T) {
	with := func(change func(*nbdserver.Limits)) nbdserver.Limits {
		l := defaultLimits
		change(&l)
		return l
	}
	for args, want := range map[string]nbdserver.Limits{
		"":                    defaultLimits,
		"--max-connections=9": with(func(l *nbdserver.Limits) { l.MaxConnections = 9 }),
		"--handshake-timeout=1s --max-connections-per-client=3": with(func(l *nbdserver.Limits) {
			l.HandshakeTimeout, l.MaxConnectionsPerClient = time.Second, 3
		}),
		"--allow=192.0.2.1,::1 --allow=allunix --deny=all": with(func(l *nbdserver.Limits) {
			l.Allow, l.Deny = []string{"192.0.2.1", "::1", "allunix"}, []string{"all"}
		}),
		"--rate=10M --connection-rate=1M,burst=3M": with(func(l *nbdserver.Limits) {
			l.Rate.BytesPerSecond, l.ConnectionRate = 10<<20, nbdserver.Rate{BytesPerSecond: 1 << 20, Burst: 3 << 20}
		}),
		"--max-memory=1G --max-connection-memory=32M": with(func(l *nbdserver.Limits) {
			l.MaxMemory, l.MaxConnectionMemory = 1<<30, 32<<20
		}),
	} {
		if got, err := limitsOf(strings.Fields(args)...); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", args, got, err, want)
		}
	}
	for _, arg := range []string{
		"--max-connections=0", "--max-connections=many", "--max-connections-per-client=-1", "--handshake-timeout=0", "--handshake-timeout=10",
		"--rate=0", "--rate=fast", "--rate=1M,burst=", "--rate=1M,burst=x", "--connection-rate=1M,1M", "--max-memory=0", "--max-connection-memory=1X",
		"--allow=nobody", "--allow=192.0.2.1,,::1", "--deny=10.0.0.0/33", "--rate=1M,burst=1", "--connection-rate=1M,burst=1", "--max-memory=1M", "--max-connection-memory=1M",
	} {
		flag, _, _ := strings.Cut(arg, "=")
		if l, err := limitsOf(arg); err == nil || !strings.Contains(err.Error(), flag) || strings.Contains(err.Error(), "maxM") {
			t.Errorf("%s: %+v, %v; want an error about %s", arg, l, err, flag)
		}
	}
}

func TestValuesReadBack(t *testing.T) {
	for _, s := range []string{"", "1", "1000", "64K", "1M,burst=64K", "3G,burst=1025"} {
		var v rateValue
		if s != "" {
			if err := v.Set(s); err != nil {
				t.Errorf("%s: %v", s, err)
			}
		}
		if got := v.String(); got != s {
			t.Errorf("%s is written %s", s, got)
		}
	}
}
