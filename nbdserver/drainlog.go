package nbdserver

import (
	"math"
	"time"

	"go.uber.org/zap"

	"github.com/nbdexport/nbdexport/nbdserver/report"
)

// policy is the DrainPolicy in force.
func (s *Server) policy() DrainPolicy {
	if s.DrainPolicy == nil {
		return DrainPolicy{Grace: Infinite, Timeout: Infinite}
	}
	return *s.DrainPolicy
}

// String returns the policy as it stands in the status.
func (p Policy) String() string { return [...]string{"refuse", "disconnect"}[p] }

// grace is when the grace is over, Infinite if the timeout takes its place: or
// chance would decide which of the two comes first.
func (d DrainPolicy) grace() time.Duration {
	if d.Timeout != Infinite && d.Timeout <= d.Grace {
		return Infinite
	}
	return d.Grace
}

// until is the time from the beginning of the drain to the latest end of a
// phase. It may be Infinite.
func (d DrainPolicy) until(p Phase) time.Duration {
	switch {
	case p == Draining && d.grace() != Infinite:
		return d.Grace
	case d.Timeout == Infinite:
		return Infinite
	case p == Closing && d.Timeout <= math.MaxInt64-closeTimeout:
		return d.Timeout + closeTimeout
	}
	return d.Timeout
}

// logPhase writes the one line about a phase that has begun.
func (s *Server) logPhase(p Phase) {
	s.mu.Lock()
	condition, since, clients := s.report.Condition, s.report.StartedAt, len(s.conns)
	s.mu.Unlock()
	atMost := s.policy().until(p)
	if atMost != Infinite {
		atMost = max(0, atMost-time.Since(since))
	}
	select {
	case <-s.forced:
		if atMost == Infinite || atMost > closeTimeout {
			atMost = closeTimeout
		}
	default:
	}
	// In words, since there is no number for what has no end.
	limit := "infinite"
	if atMost != Infinite {
		limit = atMost.Round(time.Millisecond).String()
	}
	s.log.Info("drain", zap.Stringer("phase", p), zap.String("condition", condition), zap.Int("clients", clients),
		zap.Int64("inFlight", s.inFlight.Load()), zap.String("atMost", limit))
}

// logEnded writes the line about the last phase.
func (s *Server) logEnded(r report.Report) {
	level := zap.InfoLevel
	if !r.Clean() {
		level = zap.WarnLevel
	}
	s.log.Log(level, "drain", zap.Stringer("phase", Ended), zap.Any("report", r))
}
