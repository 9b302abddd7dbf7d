package nbdserver

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// Defaults of Limits.
const (
	// DefaultMaxConnections is the number of connections at a time.
	DefaultMaxConnections = 256
	// DefaultHandshakeTimeout is the time from accept to the end of the
	// negotiation.
	DefaultHandshakeTimeout = 10 * time.Second
	// DefaultMaxMemory is the payload in flight over all connections, in bytes.
	DefaultMaxMemory = 512 << 20
	// DefaultMaxConnectionMemory is the payload in flight of each connection,
	// in bytes.
	DefaultMaxConnectionMemory = 64 << 20
)

// Limits bound what clients may use, and say who may be one. The zero value has
// the defaults, and permits everybody.
type Limits struct {
	// MaxConnections is the number of connections at a time, those that still
	// negotiate among them. When there are as many, a newcomer takes the place
	// of the one that has negotiated for longest, which is closed; if none
	// negotiates, the newcomer is closed. 0 means DefaultMaxConnections.
	MaxConnections int
	// MaxConnectionsPerClient is the same for the connections from one IP
	// address, or, over unix sockets, of one user. 0 means no such limit.
	MaxConnectionsPerClient int
	// HandshakeTimeout is the time that a client has from accept to the end
	// of its negotiation. A change is for those who connect after it. 0 means
	// DefaultHandshakeTimeout.
	HandshakeTimeout time.Duration
	// Allow and Deny say who may connect, in the way of nbdkit-ip-filter(1):
	// whoever is in Allow may, else whoever is in Deny may not, else everybody
	// may. An element is an address (192.0.2.1, 2001:db8::1), a range of them
	// (192.0.2.0/24) or all, allipv4, allipv6, allunix, where any is the same
	// word as all. An IPv4 address mapped into IPv6 counts as IPv4; zones don't
	// count. Who is connected stays connected when they change.
	Allow, Deny []string
	// Rate bounds the payload of all connections together, and ConnectionRate
	// that of each.
	Rate, ConnectionRate Rate
	// MaxMemory is how many bytes of memory the payloads of requests and the
	// lists of extents take at a time, over all connections, and
	// MaxConnectionMemory the same for each.
	// Requests beyond that wait in their clients' sockets. Each is at least
	// wire.MaxBlock; 0 means DefaultMaxMemory and DefaultMaxConnectionMemory.
	//
	// A connection that holds memory of requests and moves no payload for 10 s,
	// because its client doesn't, is closed if another one has waited for
	// memory for as long; of several the one that holds the most is. Otherwise
	// nobody is closed for being slow.
	MaxMemory, MaxConnectionMemory int64
	// Exports has what holds for one export besides, by its name.
	Exports map[string]ExportLimits
}

// ExportLimits bound the use of one export, besides what holds for all. A client
// that isn't let in by them is answered NBD_REP_ERR_POLICY, or is disconnected
// if it asked by NBD_OPT_EXPORT_NAME.
type ExportLimits struct {
	// MaxConnections is the number of clients at a time. 0 means no such limit.
	MaxConnections int
	// Allow and Deny are as in Limits. An export that a client may not use isn't
	// listed to it.
	Allow, Deny []string
	// Rate bounds the payload of all the export's connections together.
	Rate Rate
}

// Rate bounds the payload of reads, and that of writes for itself, as
// nbdkit-rate-filter(1) does. What else goes over the network isn't counted. A
// connection that is over it isn't read from for a while.
type Rate struct {
	// BytesPerSecond on average; 0 means no limit.
	BytesPerSecond int64
	// Burst is how many bytes can be moved at once after a pause; at least 64
	// KiB. 0 means what is moved in two seconds, or 64 KiB if that is more.
	Burst int64
}

// limits are Limits that were checked, with the defaults filled in. They are
// never changed.
type limits struct {
	Limits
	access  access
	exports map[*Export]exportLimits
}

type exportLimits struct {
	ExportLimits
	access access
}

// SetLimits replaces all limits by l. It may be called at any time from any
// goroutine, and holds at once, also for requests that wait under an older
// limit; nobody is disconnected by it. If something is wrong with l it returns an
// error that names the field, and changes nothing.
func (s *Server) SetLimits(l Limits) error {
	s.init()
	checked, err := s.checkLimits(l)
	if err != nil {
		return err
	}
	s.mu.Lock() // newConn is called with it held: none is left with old limits
	defer s.mu.Unlock()
	s.limits.Store(checked)
	s.memory.resize(checked.MaxMemory)
	s.rates.set(checked.Rate)
	for _, e := range s.Exports {
		e.rates.set(checked.exports[e].Rate)
	}
	for c := range s.conns {
		c.memory.resize(checked.MaxConnectionMemory)
		c.rates.set(checked.ConnectionRate)
	}
	return nil
}

// checkLimits fills in defaults. Its errors name the field as it stands in
// configuration files.
func (s *Server) checkLimits(l Limits) (*limits, error) {
	set := &limits{Limits: l, exports: map[*Export]exportLimits{}}
	for _, n := range []struct {
		field string
		value int
	}{
		{"maxConnections", l.MaxConnections},
		{"maxConnectionsPerClient", l.MaxConnectionsPerClient},
		{"handshakeTimeout", int(l.HandshakeTimeout)},
	} {
		if n.value < 0 {
			return nil, fmt.Errorf("%s: it can't be less than 0", n.field)
		}
	}
	if l.MaxConnections == 0 {
		set.MaxConnections = DefaultMaxConnections
	}
	if l.HandshakeTimeout == 0 {
		set.HandshakeTimeout = DefaultHandshakeTimeout
	}
	var err error
	if set.access, err = newAccess(l.Allow, l.Deny); err != nil {
		return nil, err
	}
	if set.Rate, err = l.Rate.check("rate"); err != nil {
		return nil, err
	}
	if set.ConnectionRate, err = l.ConnectionRate.check("connectionRate"); err != nil {
		return nil, err
	}
	if set.MaxMemory, err = checkMemory("maxMemory", l.MaxMemory, DefaultMaxMemory); err != nil {
		return nil, err
	}
	if set.MaxConnectionMemory, err = checkMemory("maxConnectionMemory", l.MaxConnectionMemory, DefaultMaxConnectionMemory); err != nil {
		return nil, err
	}
	for name, of := range l.Exports {
		i := slices.IndexFunc(s.Exports, func(e *Export) bool { return e.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("volumes: %q isn't the name of a volume", name)
		}
		if set.exports[s.Exports[i]], err = of.check(); err != nil {
			return nil, fmt.Errorf("volumes: %q: %w", name, err)
		}
	}
	return set, nil
}

func (l ExportLimits) check() (set exportLimits, err error) {
	set.ExportLimits = l
	if l.MaxConnections < 0 {
		return set, errors.New("maxConnections: it can't be less than 0")
	}
	if set.access, err = newAccess(l.Allow, l.Deny); err != nil {
		return set, err
	}
	set.Rate, err = l.Rate.check("rate")
	return set, err
}

func checkMemory(field string, n, otherwise int64) (int64, error) {
	if n == 0 {
		return otherwise, nil
	}
	if n < wire.MaxBlock {
		return 0, fmt.Errorf("%s: %d bytes are too few: one request may take %d, so allow that or more", field, n, wire.MaxBlock)
	}
	return n, nil
}

func (r Rate) check(field string) (Rate, error) {
	switch {
	case r.BytesPerSecond < 0:
		return r, fmt.Errorf("%s: bytesPerSecond can't be less than 0", field)
	case r.BytesPerSecond == 0:
		return Rate{}, nil
	case r.Burst == 0:
		r.Burst = max(rateStep, 2*min(r.BytesPerSecond, math.MaxInt64/2))
	case r.Burst < rateStep:
		return r, fmt.Errorf("%s: a burst of %d bytes is too small: allow %d or more", field, r.Burst, rateStep)
	}
	return r, nil
}
