package nbdserver

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// What ends a pause, before it is complete and after. Requests go on at once;
// the last time tells how late they are answered.
func TestPauseEnds(t *testing.T) {
	type ending struct {
		name    string
		end     func(s *Server, cancel func())
		why     string // of a pause that isn't complete
		drains  bool
		resumes time.Duration // a pause that is complete
	}
	drain := func(s *Server, _ func()) { s.BeginDrain("test") }
	for _, tt := range []ending{
		{"resume", func(s *Server, _ func()) { s.Resume() }, "resumed", false, 0},
		{"time", func(*Server, func()) { time.Sleep(time.Minute) }, "its time is over", false, time.Minute},
		{"context", func(_ *Server, cancel func()) { cancel() }, "given up: context canceled", false, time.Minute},
		{"drain", drain, "the server drains", true, 0},
	} {
		for _, policy := range []Policy{Refuse, Disconnect} {
			for _, complete := range []bool{false, true} {
				name := tt.name + ", " + policy.String() + ", pausing"
				if complete {
					name = tt.name + ", " + policy.String() + ", paused"
				}
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s, d := withDisk(t)
						logs := observed(s)
						s.DrainPolicy = bounds(policy)
						one, two := joined(t, s), joined(t, s)
						ctx, cancel := context.WithCancel(t.Context())
						defer cancel()
						if !complete {
							d.do("hangs write")
						}
						one.request(0, wire.CmdWrite, 1, 0, 4, "soon")
						synctest.Wait()
						paused := pausing(ctx, s, time.Minute)
						two.request(0, wire.CmdRead, 2, 4, 4)
						start := time.Now()
						if complete {
							if err := <-paused; err != nil {
								t.Fatal(err)
							}
						} else {
							pending(t, paused)
						}
						tt.end(s, cancel)
						if !complete {
							failed(t, <-paused, tt.why)
						}
						two.must(2, 0)
						two.get(4)
						if after := time.Since(start); complete && after != tt.resumes {
							t.Errorf("requests go on after %v", after)
						}
						synctest.Wait()
						if n := logs.FilterMessage("pause is over").FilterLevelExact(zap.WarnLevel).Len(); n != 1 && tt.name != "resume" {
							t.Errorf("%d warnings that the pause is over: %v", n, logs.All())
						}
						d.do("recovers")
						one.must(1, 0)
						err := s.Pause(t.Context(), time.Minute)
						if tt.drains {
							failed(t, err, "the server drains")
						} else if err != nil || !s.Resume() {
							t.Errorf("the next pause: %v", err)
						}
						one.Close()
						two.Close()
						s.BeginDrain("test")
						ended(t, s, 0, 0)
						failed(t, s.Pause(t.Context(), time.Minute), "the server drains")
					})
				})
			}
		}
	}
}

// Close doesn't wait for a pause.
func TestCloseWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := withDisk(t)
		c := joined(t, s)
		mustPause(t, s, time.Minute)
		c.request(0, wire.CmdRead, 1, 0, 1<<20)
		synctest.Wait()
		s.Close()
		ended(t, s, 0, 3)
	})
}

func TestPauseFlushFails(t *testing.T) {
	for trouble, why := range map[string]string{
		"fails flush":     `export "disk": flush: flush: input/output error`,
		"panics in flush": `export "disk": flush: flush panicked: in flush`,
	} {
		t.Run(trouble, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := withDisk(t)
				c := joined(t, s)
				d.do(trouble)
				failed(t, s.Pause(t.Context(), time.Minute), why)
				c.request(0, wire.CmdWrite, 1, 0, 4, "data")
				c.must(1, 0)
				d.do("recovers")
				failed(t, s.Pause(t.Context(), time.Minute), why) // it isn't forgotten
				c.Close()
				s.BeginDrain("test")
				ended(t, s, 0, 4)
			})
		})
	}
}

// A flush without an end doesn't keep the requests from going on, and the
// volume isn't closed under it.
func TestPauseFlushHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := withDisk(t)
		c := joined(t, s)
		d.do("hangs flush")
		failed(t, s.Pause(t.Context(), time.Minute), "its time is over")
		c.request(0, wire.CmdWrite, 1, 0, 4, "data")
		c.must(1, 0)
		c.Close()
		s.BeginDrain("test")
		time.Sleep(time.Minute)
		synctest.Wait()
		if seen := d.take(); seen != "" {
			t.Errorf("%s while a flush is under way", seen)
		}
		d.do("recovers")
		ended(t, s, time.Minute, 0)
		if seen := d.take(); seen != "flushed, flushed, closed" {
			t.Errorf("in the end: %s", seen)
		}
	})
}

// A pause that is asked for again is the same one, and ends when the last of
// its times is over.
func TestPauseAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := withDisk(t)
		c, other := joined(t, s), joined(t, s)
		d.do("hangs write")
		c.request(0, wire.CmdWrite, 1, 0, 4, "data")
		synctest.Wait()
		start := time.Now()
		one, two := pausing(t.Context(), s, time.Minute), pausing(t.Context(), s, time.Minute)
		time.Sleep(20 * time.Second)
		pending(t, one)
		pending(t, two)
		d.do("recovers")
		c.must(1, 0)
		for _, paused := range []<-chan error{one, two} {
			if err := <-paused; err != nil {
				t.Error(err)
			}
		}
		time.Sleep(20 * time.Second)
		mustPause(t, s, time.Minute)
		mustPause(t, s, time.Second)
		other.request(0, wire.CmdRead, 2, 0, 4)
		other.must(2, 0)
		other.get(4)
		about(t, "the pause", time.Since(start), 100*time.Second)
		if seen := d.take(); seen != "flushed" {
			t.Errorf("%s for one pause", seen)
		}
		c.Close()
		other.Close()
	})
}

func TestPauseForHowLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := withDisk(t)
		for _, atMost := range []time.Duration{Infinite, 0, MaxPause + 1} {
			failed(t, s.Pause(t.Context(), atMost), "longer than 0 and at most 1h0m0s")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		failed(t, s.Pause(ctx, time.Minute), "context canceled")
		if s.Resume() {
			t.Error("a pause was begun")
		}
		mustPause(t, s, MaxPause)
		for range 20 { // whoever is gone doesn't end the pause of another
			failed(t, s.Pause(ctx, time.Minute), "context canceled")
		}
		if !s.Resume() {
			t.Error("the pause was ended")
		}
	})
}

// A pause that is prolonged in the moment in which it ends goes on, or begins
// anew.
func TestPauseAgainAtTheLastMoment(t *testing.T) {
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			s, _ := withDisk(t)
			mustPause(t, s, time.Minute)
			time.Sleep(time.Minute)
			mustPause(t, s, time.Minute)
			time.Sleep(time.Minute - 1)
			if !s.Resume() {
				t.Error("the pause has ended")
			}
		})
	}
}
