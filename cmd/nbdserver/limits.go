package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/pflag"

	"github.com/nbdexport/nbdexport/nbdserver"
)

// limitFlags are the flags of "nbdserver serve" about limits and access, as they were written.
type limitFlags struct {
	maxConnections          int
	maxConnectionsPerClient int
	handshakeTimeout        time.Duration
	allow, deny             []string
	rate, connectionRate    rateValue
	memory, each            sizeValue
	config                  string

	file *configFile // set by apply, if there is one
}

func (f *limitFlags) register(fs *pflag.FlagSet) {
	f.memory, f.each = nbdserver.DefaultMaxMemory, nbdserver.DefaultMaxConnectionMemory
	fs.IntVar(&f.maxConnections, "max-connections", nbdserver.DefaultMaxConnections, "`N` connections at a time; a newcomer displaces one that still negotiates")
	fs.IntVar(&f.maxConnectionsPerClient, "max-connections-per-client", 0, "`N` of one IP address, or of one user over unix sockets (default no limit)")
	fs.DurationVar(&f.handshakeTimeout, "handshake-timeout", nbdserver.DefaultHandshakeTimeout, "`DURATION` from accept to the end of the negotiation")
	const address = "; one, or ADDRESS/BITS, all, allipv4, allipv6, allunix; repeatable"
	fs.StringArrayVar(&f.allow, "allow", nil, "`ADDRESS` that may connect, whatever --deny says"+address)
	fs.StringArrayVar(&f.deny, "deny", nil, "`ADDRESS` that may not connect otherwise"+address)
	fs.Var(&f.rate, "rate", "bytes of payload per second, for reads and for writes, of all connections together (default no limit)")
	fs.Var(&f.connectionRate, "connection-rate", "the same for each connection (default no limit)")
	fs.Var(&f.memory, "max-memory", "memory for the payload of requests in flight, over all connections")
	fs.Var(&f.each, "max-connection-memory", "the same for each connection")
	fs.StringVar(&f.config, "config", "", "`FILE` in YAML with limits in place of those of the flags, and for single volumes; it is read again when it changes")
}

// limits are those of the flags, checked.
func (f *limitFlags) limits() (nbdserver.Limits, error) {
	switch {
	case f.maxConnections < 1:
		return nbdserver.Limits{}, fmt.Errorf("--max-connections: %d lets nobody in: write 1 or more", f.maxConnections)
	case f.maxConnectionsPerClient < 0:
		return nbdserver.Limits{}, fmt.Errorf("--max-connections-per-client: %d is no number of connections: write 1 or more, or 0 for no limit", f.maxConnectionsPerClient)
	case f.handshakeTimeout <= 0:
		return nbdserver.Limits{}, fmt.Errorf("--handshake-timeout: %v lets nobody in: write a duration like 10s", f.handshakeTimeout)
	}
	l := nbdserver.Limits{
		MaxConnections:          f.maxConnections,
		MaxConnectionsPerClient: f.maxConnectionsPerClient,
		HandshakeTimeout:        f.handshakeTimeout,
		Allow:                   splitList(f.allow),
		Deny:                    splitList(f.deny),
		Rate:                    nbdserver.Rate(f.rate),
		ConnectionRate:          nbdserver.Rate(f.connectionRate),
		MaxMemory:               int64(f.memory),
		MaxConnectionMemory:     int64(f.each),
	}
	// A server of nothing finds what else is wrong, in the words of the
	// configuration file.
	if err := new(nbdserver.Server).SetLimits(l); err != nil {
		key, what, _ := strings.Cut(err.Error(), ": ")
		return l, fmt.Errorf("--%s: %s", flagOf(key), what)
	}
	return l, nil
}

// splitList is for lists with commas, as the ip filter's.
func splitList(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return strings.Split(strings.Join(list, ","), ",")
}

// flagOf is the flag of a key in the configuration file: max-memory of maxMemory.
func flagOf(key string) string {
	var b strings.Builder
	for _, r := range key {
		if unicode.IsUpper(r) {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// apply checks what was written and sets up the server. From then on changes of
// the configuration file are followed until the server has ended.
func (f *limitFlags) apply(srv *nbdserver.Server) error {
	l, err := f.limits()
	if err != nil {
		return err
	}
	if err := srv.SetLimits(l); err != nil {
		return err
	}
	if f.config == "" {
		return nil
	}
	f.file = newConfigFile(f.config, l, srv)
	if err := f.file.reload(); err != nil {
		return err
	}
	go f.file.watch(srv.Done())
	return nil
}

// sizeValue is the value of a flag that takes a number of bytes, like 512M.
type sizeValue int64

// String implements pflag.Value.
func (v *sizeValue) String() string {
	n, unit := int64(*v), ""
	for _, u := range []string{"K", "M", "G", "T", "P"} {
		if n == 0 || n%1024 != 0 {
			break
		}
		n, unit = n/1024, u
	}
	return strconv.FormatInt(n, 10) + unit
}

// Set implements pflag.Value.
func (v *sizeValue) Set(s string) error {
	n, err := parseSize(s)
	if err != nil {
		return err
	}
	*v = sizeValue(n)
	return nil
}

// Type implements pflag.Value; help prints it.
func (v *sizeValue) Type() string { return "SIZE" }

// rateValue is the value of a flag that takes a rate, like 10M,burst=20M.
type rateValue nbdserver.Rate

// String implements pflag.Value.
func (v *rateValue) String() string {
	if v.BytesPerSecond == 0 {
		return ""
	}
	per, burst := sizeValue(v.BytesPerSecond), sizeValue(v.Burst)
	if burst == 0 {
		return per.String()
	}
	return per.String() + ",burst=" + burst.String()
}

// Set implements pflag.Value.
func (v *rateValue) Set(s string) error {
	rate, burst, withBurst := strings.Cut(s, ",burst=")
	var per, b sizeValue
	if err := per.Set(rate); err != nil {
		return err
	}
	if withBurst {
		if err := b.Set(burst); err != nil {
			return err
		}
	}
	*v = rateValue{int64(per), int64(b)}
	return nil
}

// Type implements pflag.Value; help prints it.
func (v *rateValue) Type() string { return "SIZE[,burst=SIZE]" }
