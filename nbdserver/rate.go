package nbdserver

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// rateStep is how many bytes are waited for at a time, so that a large request
// doesn't hold up the small ones of other connections for long. It is also the
// least burst.
const rateStep = 64 << 10

// rates are what a Rate makes: a bucket for reads and one for writes. The zero
// value sets no bound.
type rates struct{ read, write bucket }

func (r *rates) set(to Rate) {
	r.read.set(to)
	r.write.set(to)
}

// throttle waits until the payload of a request may be moved: under the rates
// of the connection, of its export and of the server. Nothing more is read from
// the client meanwhile, and the request takes no memory yet.
func (c *Conn) throttle(r wire.Request) error {
	all := [...]*rates{&c.rates, &c.export.rates, &c.srv.rates}
	for left := payload(r); left > 0; {
		step := min(left, rateStep)
		left -= step
		for _, r2 := range all {
			b := &r2.read
			if r.Command == wire.CmdWrite {
				b = &r2.write
			}
			if err := b.wait(c.ctx, int(step)); err != nil {
				return errGone
			}
		}
	}
	return nil
}

// bucket is a token bucket whose rate can be changed while it is waited for.
type bucket struct{ meter atomic.Pointer[meter] } // nil: no limit

// meter is a bucket under one Rate.
type meter struct {
	rate     Rate
	limiter  *rate.Limiter
	replaced chan struct{} // closed when the bucket has another Rate
}

// set changes the rate. What has gathered in the bucket stays there. One call at
// a time.
func (b *bucket) set(to Rate) {
	old := b.meter.Load()
	if old != nil && old.rate == to || old == nil && to == (Rate{}) {
		return
	}
	var m *meter
	if to != (Rate{}) {
		m = &meter{to, rate.NewLimiter(rate.Limit(to.BytesPerSecond), int(to.Burst)), make(chan struct{})}
		if old != nil {
			now := time.Now()
			has := int(min(max(old.limiter.TokensAt(now), 0), float64(to.Burst)))
			m.limiter.AllowN(now, int(to.Burst)-has)
		}
	}
	b.meter.Store(m)
	if old != nil {
		close(old.replaced)
	}
}

// wait takes n tokens out of the bucket, at most rateStep, when they are there.
// Those who wait are served in turn. Its error is ctx's.
func (b *bucket) wait(ctx context.Context, n int) error {
	for {
		m := b.meter.Load()
		if m == nil {
			return nil
		}
		now := time.Now()
		r := m.limiter.ReserveN(now, n)
		delay := r.DelayFrom(now)
		if delay == 0 {
			return nil
		}
		t := time.NewTimer(delay)
		select {
		case <-t.C:
			return nil
		case <-m.replaced: // and the reservation with it
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			r.Cancel()
			return ctx.Err()
		}
	}
}
