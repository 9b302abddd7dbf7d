package nbdserver

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// reason is why a client wasn't let in.
type reason int

const (
	admitted reason = iota
	tooMany
	tooManyOfClient
	denied
	evicted
	tooManyOfExport
	deniedExport
	draining
	tlsFailed
	handshakeTimeout
	protocolError
	reasons
)

// String returns the reason as it stands in metrics.
func (r reason) String() string {
	return [...]string{"", "too_many", "too_many_of_client", "denied", "evicted", "too_many_of_export", "denied_export",
		"draining", "tls_failed", "handshake_timeout", "protocol_error"}[r]
}

// words are for the log, and for clients.
func (r reason) words() string {
	return [...]string{
		"",
		"too many connections",
		"too many connections from this client",
		"denied by address",
		"evicted from the negotiation by a newcomer",
		"too many clients use the export",
		"the export is denied to this address",
		"the server is shutting down",
		"TLS handshake failed",
		"handshake timeout",
		"client broke the protocol",
	}[r]
}

var (
	errEvicted = errors.New(evicted.words())
	errStalled = errors.New("stalled while others waited for memory")
)

// admit decides about a newcomer. If there is no place left, it may take that of
// the connection that has negotiated for longest: clients that connect and say
// nothing, however many, don't keep out one that means it. A client with too many
// connections displaces its own. Connections of which the client has chosen an
// export are never displaced.
//
// s.mu is held. The caller closes the displaced connection.
func (s *Server) admit(p client) (displaced *Conn, why reason) {
	if s.phase != Serving {
		return nil, draining
	}
	l := s.limits.Load()
	if !l.access.permits(p) {
		return nil, denied
	}
	var all, same places
	for c := range s.conns {
		if c.evicted {
			continue // as good as gone
		}
		all.add(c)
		if p != (client{}) && c.from == p {
			same.add(c)
		}
	}
	if limit := l.MaxConnectionsPerClient; limit > 0 && same.taken >= limit {
		if displaced = same.oldest; displaced == nil || same.taken > limit {
			return nil, tooManyOfClient
		}
		all.taken--
	}
	if all.taken >= l.MaxConnections {
		if displaced != nil || all.oldest == nil || all.taken > l.MaxConnections {
			return nil, tooMany
		}
		displaced = all.oldest
	}
	if displaced != nil {
		displaced.evicted = true
	}
	return displaced, admitted
}

// places are those that connections take.
type places struct {
	taken  int
	oldest *Conn // of those who negotiate
}

func (p *places) add(c *Conn) {
	p.taken++
	if c.chosen == nil && (p.oldest == nil || c.since.Before(p.oldest.since)) {
		p.oldest = c
	}
}

// permits tells whether c may know of e.
func (s *Server) permits(c *Conn, e *Export) bool {
	return s.limits.Load().exports[e].access.permits(c.from)
}

// choose gives c, which has made no choice yet, a place among the clients of e
// until c ends, or returns why not. From then on c isn't displaced by newcomers.
func (s *Server) choose(c *Conn, e *Export) error {
	why := s.take(c, e)
	if why == admitted {
		return nil
	}
	if why != evicted { // which is counted already
		s.refused[why].Add(1)
		s.sampled.Warn("export refused", zap.Stringer("peer", c.peer), zap.String("export", e.Name), zap.String("reason", why.words()))
	}
	return errors.New(why.words())
}

func (s *Server) take(c *Conn, e *Export) reason {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.limits.Load().exports[e]
	switch {
	case s.phase >= Closing:
		return draining // the volume is about to be closed
	case c.evicted:
		return evicted
	case !l.access.permits(c.from):
		return deniedExport
	case l.MaxConnections > 0 && e.clients >= l.MaxConnections:
		return tooManyOfExport
	}
	c.chosen = e
	e.clients++
	e.users.Add(1)
	return admitted
}

// unchoose takes c's place among the clients of its export back. s.mu is held.
func (s *Server) unchoose(c *Conn) {
	if c.chosen != nil {
		c.chosen.clients--
		c.chosen.users.Done()
		c.chosen = nil
	}
}

var (
	descRefused = prometheus.NewDesc("nbd_server_connections_refused_total",
		"Connections that were closed before they got an export, or were refused the one they asked for, by reason.", []string{"reason"}, nil)
	descStalled = prometheus.NewDesc("nbd_server_connections_stalled_total",
		"Connections that were closed because they stalled while others waited for memory.", nil, nil)
)

// collectAdmission tells how many were turned away.
func (s *Server) collectAdmission(send func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string)) {
	for r := admitted + 1; r < reasons; r++ {
		send(descRefused, prometheus.CounterValue, float64(s.refused[r].Load()), r.String())
	}
	send(descStalled, prometheus.CounterValue, float64(s.stalled.Load()))
}
