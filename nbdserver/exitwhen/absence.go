package exitwhen

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Idle happens when no client of o.Clients, which must be set, has been
// connected for the given time: since the last one left, or since Watch was
// first called, which is when serving starts. The argument is a duration over
// zero as time.ParseDuration reads it.
func Idle(duration string, o Options) (Condition, error) {
	d, err := time.ParseDuration(duration)
	if err != nil || d <= 0 {
		return nil, fmt.Errorf("%q isn't a duration over zero: give one like 90s, 5m or 1h30m", duration)
	}
	return newAbsence("idle", d, true, o)
}

// LastClientLeaves happens when there has been a client of o.Clients, which must
// be set, and none has been connected for the grace; it is
// nbdkit-exitlast-filter(1) with a grace for clients that connect one after the
// other. The argument is a duration of zero or more. With zero, too, a client
// that comes before the leaving of the last one was noticed keeps the server.
func LastClientLeaves(grace string, o Options) (Condition, error) {
	d, err := time.ParseDuration(grace)
	if err != nil || d < 0 {
		return nil, fmt.Errorf("%q isn't a grace: give a duration like 0s, 10s or 5m", grace)
	}
	return newAbsence("last-client-leaves", d, false, o)
}

// absence is the condition that nobody has been connected for a time.
type absence struct {
	name      string
	clients   *Clients
	lasting   time.Duration
	fromStart bool      // it is also counted from the start of serving
	start     time.Time // of serving; zero before
	happened  bool
}

func newAbsence(kind string, d time.Duration, fromStart bool, o Options) (Condition, error) {
	if o.Clients == nil {
		return nil, errors.New("nobody tells who is connected: set Options.Clients")
	}
	return &absence{name: fmt.Sprintf("%s=%v", kind, d), clients: o.Clients, lasting: d, fromStart: fromStart}, nil
}

func (a *absence) String() string { return a.name }

// Check is about the time before Watch, in which nobody could connect.
func (a *absence) Check(context.Context) (bool, error) { return a.happened, nil }

func (a *absence) Watch(ctx context.Context) error {
	if a.start.IsZero() {
		a.start = time.Now()
	}
	for !a.happened {
		// When the time is over it is looked again: who came at the last moment
		// counts.
		absent, since, changed := a.clients.look()
		if since.IsZero() {
			absent, since = absent && a.fromStart, a.start
		}
		var over <-chan time.Time
		if absent {
			left := time.Until(since.Add(a.lasting))
			if left <= 0 {
				a.happened = true
				break
			}
			over = time.After(left)
		}
		select {
		case <-changed:
		case <-over:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (a *absence) Close() error { return nil }
