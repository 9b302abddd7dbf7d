package exitwhen

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		for _, tt := range []struct {
			arg, name string
			after     time.Duration
		}{
			{"90s", "deadline=1m30s", 90 * time.Second},
			{"36h", "deadline=36h0m0s", 36 * time.Hour},
			{"1ns", "deadline=1ns", 1},
			{start.Add(72 * time.Hour).UTC().Format(time.RFC3339), "", 72 * time.Hour},
			{start.Add(96 * time.Hour).UTC().Format(time.RFC3339Nano), "", 96 * time.Hour},
			{start.Add(120 * time.Hour).In(time.FixedZone("", 3600)).Format(time.RFC3339), "", 120 * time.Hour},
		} {
			began := time.Now()
			c := made(t)(Deadline(tt.arg, unpolled))
			if tt.name == "" {
				tt.name = "deadline=" + tt.arg
				began = start
			}
			if c.String() != tt.name {
				t.Errorf("String() = %q, want %q", c, tt.name)
			}
			check(t, c, false)
			ok(t, c.Watch(t.Context()))
			if took := time.Since(began); took != tt.after {
				t.Errorf("%s: it happened after %v", tt.arg, took)
			}
			check(t, c, true)
		}
	})
}

func TestDeadlineIsPast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, arg := range []string{
			time.Now().Format(time.RFC3339Nano), time.Now().Add(-time.Second).Format(time.RFC3339), "0001-01-01T00:00:00Z",
		} {
			check(t, made(t)(Deadline(arg, unpolled)), true)
			ok(t, made(t)(Deadline(arg, unpolled)).Watch(t.Context()))
		}
	})
}

// The machine's clock is set while the deadline is waited for.
func TestDeadlineClockIsSet(t *testing.T) {
	for _, tt := range []struct {
		name  string
		step  time.Duration // at half past
		after time.Duration
	}{
		{"left alone", 0, time.Hour},
		{"forward", 20 * time.Minute, 40 * time.Minute},
		{"forward beyond the deadline", 20 * time.Hour, 30*time.Minute + clockSlice},
		{"back", -time.Hour, 2 * time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				c := made(t)(Deadline(start.Add(time.Hour).Format(time.RFC3339Nano), unpolled)).(*deadline)
				c.now = func() time.Time {
					if now := time.Now(); now.Sub(start) <= 30*time.Minute {
						return now
					}
					return time.Now().Add(tt.step)
				}
				ok(t, c.Watch(t.Context()))
				if took := time.Since(start); took != tt.after {
					t.Errorf("it happened after %v, want %v", took, tt.after)
				}
			})
		})
	}
}

func TestDeadlineCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, made(t)(Deadline("1h", unpolled)))
		synctest.Wait()
		w.canceled()
	})
}

func TestDeadlineRefused(t *testing.T) {
	for _, tt := range []struct{ arg, words string }{
		{"", "neither a duration nor a time"},
		{"5", "neither a duration nor a time"},
		{"tomorrow", "neither a duration nor a time"},
		{"2026-01-31", "neither a duration nor a time"},
		{"2026-01-31T18:30:00", "neither a duration nor a time"}, // which zone?
		{"2026-02-31T18:30:00Z", "neither a duration nor a time"},
		{"18:30", "neither a duration nor a time"},
		{"0s", "isn't over zero"},
		{"-5m", "isn't over zero"},
	} {
		c, err := Deadline(tt.arg, unpolled)
		refused(t, c, err, tt.words)
	}
}
