package exitwhen

import (
	"context"
	"fmt"
	"time"
)

// clockSlice is the longest sleep before a deadline is compared with the clock
// again. The clock of the machine may be set while a timer runs, which the timer
// doesn't know of.
const clockSlice = time.Minute

// Deadline happens when a time has come. The argument is a duration over zero,
// counted from this call on a clock that nobody sets, or a time as RFC 3339 has
// it. A time in the past has come already. If the clock of the machine is set,
// a time is noticed at most a minute late.
//
// The options aren't used.
func Deadline(durationOrTime string, _ Options) (Condition, error) {
	if d, err := time.ParseDuration(durationOrTime); err == nil {
		if d <= 0 {
			return nil, fmt.Errorf("the duration %q isn't over zero: give one like 90s, 5m or 1h30m", durationOrTime)
		}
		return &deadline{name: "deadline=" + d.String(), at: time.Now().Add(d), now: time.Now}, nil
	}
	t, err := time.Parse(time.RFC3339, durationOrTime)
	if err != nil {
		return nil, fmt.Errorf("%q is neither a duration nor a time: give one like 5m or 2026-01-31T18:30:00Z", durationOrTime)
	}
	return &deadline{name: "deadline=" + t.Format(time.RFC3339Nano), at: t, now: time.Now}, nil
}

// deadline is the condition that a time has come.
type deadline struct {
	name     string
	at       time.Time        // with a monotonic reading if it came from a duration
	now      func() time.Time // time.Now, but for tests
	happened bool
}

func (d *deadline) String() string { return d.name }

func (d *deadline) Check(context.Context) (bool, error) {
	d.happened = d.happened || d.left() <= 0
	return d.happened, nil
}

func (d *deadline) Watch(ctx context.Context) error {
	for !d.happened {
		left := d.left()
		if left <= 0 {
			d.happened = true
			break
		}
		if err := sleep(ctx, min(left, clockSlice)); err != nil {
			return err
		}
	}
	return nil
}

func (d *deadline) left() time.Duration { return d.at.Sub(d.now()) }

func (d *deadline) Close() error { return nil }
