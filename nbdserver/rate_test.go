package nbdserver

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/report"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// reads asks for data and returns how long it takes to come.
func (c *rawClient) reads(length uint32) time.Duration {
	c.t.Helper()
	start := time.Now()
	c.request(0, wire.CmdRead, 1, 0, length)
	c.must(1, 0)
	c.get(int(length))
	return time.Since(start)
}

func (c *rawClient) writes(length uint32) time.Duration {
	c.t.Helper()
	start := time.Now()
	c.request(0, wire.CmdWrite, 1, 0, length, bytes.Repeat([]byte{1}, int(length)))
	c.must(1, 0)
	return time.Since(start)
}

// about compares durations; the bucket counts in fractions of bytes.
func about(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if d := got - want; d < -time.Millisecond || d > time.Millisecond {
		t.Errorf("%s: %v, not %v", what, got, want)
	}
}

const mib = 1 << 20

func TestRate(t *testing.T) {
	oneMiB := Rate{BytesPerSecond: mib, Burst: mib}
	for name, l := range map[string]Limits{
		"server":     {Rate: oneMiB},
		"volume":     {Exports: map[string]ExportLimits{"disk": {Rate: oneMiB}}},
		"connection": {ConnectionRate: oneMiB},
		"all three": {
			Rate: oneMiB, ConnectionRate: oneMiB,
			Exports: map[string]ExportLimits{"disk": {Rate: oneMiB}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 64*mib)
				setLimits(t, s, l)
				c := connect(t, s)
				c.begin(false)
				about(t, "a read within the burst", c.reads(mib), 0)
				about(t, "a read beyond it", c.reads(16*mib), 16*time.Second)
				about(t, "a write has a bucket of its own", c.writes(mib), 0)
				about(t, "a write beyond the burst", c.writes(mib), time.Second)
				// What moves no payload is free.
				start := time.Now()
				for i, cmd := range []wire.Command{wire.CmdFlush, wire.CmdTrim, wire.CmdWriteZeroes} {
					length := uint32(64 * mib)
					if cmd == wire.CmdFlush {
						length = 0
					}
					c.request(0, cmd, uint64(i), 0, length)
					c.must(uint64(i), 0)
				}
				about(t, "no payload", time.Since(start), 0)
				time.Sleep(time.Minute)
				about(t, "a read after a pause", c.reads(mib), 0)
				c.Close()
			})
		})
	}
}

func TestDefaultBurst(t *testing.T) {
	for per, want := range map[int64]int64{0: 0, 1: 64 << 10, 32 << 10: 64 << 10, mib: 2 * mib, 1<<63 - 1: 1<<63 - 2} {
		if r, err := (Rate{BytesPerSecond: per}).check("rate"); err != nil || r.Burst != want {
			t.Errorf("%d bytes per second have a burst of %d, %v; want %d", per, r.Burst, err, want)
		}
	}
}

// Which connections share a bucket.
func TestRateIsShared(t *testing.T) {
	oneMiB := Rate{BytesPerSecond: mib, Burst: 64 << 10}
	for name, tt := range map[string]struct {
		limits      Limits
		same, other time.Duration // for 10 MiB each of two clients of a volume, and of one of the other volume
	}{
		"server":     {Limits{Rate: oneMiB}, 30 * time.Second, 30 * time.Second},
		"volume":     {Limits{Exports: map[string]ExportLimits{"disk": {Rate: oneMiB}}}, 20 * time.Second, 0},
		"connection": {Limits{ConnectionRate: oneMiB}, 10 * time.Second, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := twoVolumes(t)
				setLimits(t, s, tt.limits)
				took := make(chan time.Duration)
				for _, export := range []string{"disk", "disk", "second"} {
					c := connect(t, s)
					c.greet(3)
					c.option(wire.OptGo, str(export), uint16(0))
					c.expect(wire.OptGo, wire.RepAck)
					start := time.Now()
					go func() {
						for range 10 {
							c.reads(mib)
						}
						c.Close()
						if export == "second" {
							took <- -time.Since(start)
						} else {
							took <- time.Since(start)
						}
					}()
				}
				for range 3 {
					d, want := <-took, tt.same
					if d <= 0 {
						d, want = -d, tt.other
					}
					// Who is served first is done a little earlier; the burst comes off.
					if d > want || d < want-want/10 {
						t.Errorf("it took %v, not %v", d, want)
					}
				}
			})
		})
	}
}

// A request that waits under a rate goes on at once when it is raised or
// removed, and its connection isn't disturbed.
func TestRateChanges(t *testing.T) {
	slow := Rate{BytesPerSecond: 1, Burst: 64 << 10}
	with := map[string]func(Rate) Limits{
		"server":     func(r Rate) Limits { return Limits{Rate: r} },
		"volume":     func(r Rate) Limits { return Limits{Exports: map[string]ExportLimits{"disk": {Rate: r}}} },
		"connection": func(r Rate) Limits { return Limits{ConnectionRate: r} },
	}
	for name, limits := range with {
		for what, tt := range map[string]struct {
			to   Rate
			took time.Duration
		}{
			"raised":  {Rate{BytesPerSecond: mib, Burst: 64 << 10}, time.Hour + time.Second - time.Second/16},
			"removed": {Rate{}, time.Hour},
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newMemory(t, mib)
					setLimits(t, s, limits(slow))
					c := connect(t, s)
					c.begin(false)
					time.AfterFunc(time.Hour, func() { setLimits(t, s, limits(tt.to)) })
					about(t, "the read", c.reads(mib), tt.took)
					about(t, "no new burst for the same rate", func() time.Duration {
						setLimits(t, s, limits(tt.to))
						return c.reads(64 << 10)
					}(), (tt.took-time.Hour)/15)
					c.Close()
				})
			})
		}
	}
}

func TestBucketKeepsWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bucket
		b.set(Rate{BytesPerSecond: 64 << 10, Burst: 1 << 20})
		wait := func(n int) time.Duration {
			start := time.Now()
			for ; n > 0; n -= rateStep {
				if err := b.wait(t.Context(), min(n, rateStep)); err != nil {
					t.Fatal(err)
				}
			}
			return time.Since(start)
		}
		about(t, "half of the burst", wait(512<<10), 0)
		b.set(Rate{BytesPerSecond: 128 << 10, Burst: 1 << 20})
		about(t, "the other half", wait(512<<10), 0)
		about(t, "and no more", wait(64<<10), time.Second/2)
		// Those who gave up leave nothing owing.
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second/4, cancel)
		if err := b.wait(ctx, rateStep); err != context.Canceled {
			t.Error(err)
		}
		about(t, "the rest of the step", wait(64<<10), time.Second/4)
	})
}

// A throttled request holds no memory, and none of the server's places for
// calls; and it ends with its connection.
func TestThrottledIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 64*mib)
		setLimits(t, s, Limits{Rate: Rate{BytesPerSecond: 1}})
		c := connect(t, s)
		c.begin(false)
		c.request(0, wire.CmdRead, 1, 0, 32*mib)
		synctest.Wait()
		if s.inFlight.Load() != 0 || s.memory.held != 0 {
			t.Errorf("%d requests hold %d bytes", s.inFlight.Load(), s.memory.held)
		}
		s.connections()[0].Disconnect(true)
		c.eof()
		synctest.Wait()
		if n := len(s.connections()); n != 0 {
			t.Errorf("%d connections left", n)
		}
	})
}

// To a drain, a throttled request is one in flight: it is waited for, and no
// longer than for others.
func TestDrainOfThrottled(t *testing.T) {
	for name, tt := range map[string]struct {
		rate  int64
		after time.Duration
		code  int
	}{
		"done before the timeout": {mib, 16 * time.Second, report.ExitClean},
		"cut off by it":           {1, 30 * time.Second, report.ExitClientsCut},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 64*mib)
				s.DrainPolicy = bounds(Disconnect)
				setLimits(t, s, Limits{Rate: Rate{BytesPerSecond: tt.rate, Burst: mib}})
				c := connect(t, s)
				defer c.Close()
				c.begin(false)
				c.request(0, wire.CmdRead, 1, 0, 17*mib)
				synctest.Wait()
				s.BeginDrain("test")
				if tt.code == report.ExitClean {
					c.must(1, 0)
					c.get(17 * mib)
				}
				c.eof()
				ended(t, s, tt.after, tt.code)
			})
		})
	}
}
