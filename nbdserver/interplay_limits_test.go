package nbdserver

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/certificates"
	"github.com/nbdexport/nbdexport/nbdserver/report"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// TestRateOfTLSClients: the rate is that of all of them, and a drain waits for
// those that it holds up.
func TestRateOfTLSClients(t *testing.T) {
	const clients = 20
	for name, policy := range map[string]Policy{"refuse": Refuse, "disconnect": Disconnect} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, mib)
				config, _ := encrypt(t, s, TLSRequire, certificates.Options{})
				setLimits(t, s, Limits{Rate: Rate{BytesPerSecond: mib, Burst: 64 << 10}})
				s.DrainPolicy = bounds(policy)
				var all sync.WaitGroup
				for i := range clients {
					w := way{form: i % 3, tls: true, config: config}
					c := connect(t, s)
					w.enter(c)
					all.Go(func() {
						if a := w.ask(c, 0, wire.CmdRead, 0, mib); a.errno != 0 {
							t.Error(a.errno)
						}
						if policy == Refuse {
							if a := w.ask(c, 0, wire.CmdRead, 0, 512); a.errno != wire.ESHUTDOWN {
								t.Errorf("after the grace: %v", a.errno)
							}
							w.send(c, 0, wire.CmdDisc, 2, 0, 0)
						}
						c.eof()
					})
				}
				synctest.Wait()
				s.BeginDrain("test")
				start := time.Now()
				all.Wait()
				<-s.Done()
				about(t, "the end", time.Since(start), clients*time.Second-time.Second/16)
				if r := s.Report(); r.ExitCode != report.ExitClean || r.BytesRead != clients*mib {
					t.Errorf("the report is %+v", r)
				}
			})
		})
	}
}

// TestStalledInEveryForm: who holds all memory by a write that doesn't come, or
// by a read that it doesn't take, is closed for the next one after 10 s; who is
// slow is not.
func TestStalledInEveryForm(t *testing.T) {
	const (
		pause = 9 * time.Second
		long  = wire.MaxBlock/2 + piece // takes the buffer of the longest
	)
	ways(t, func(t *testing.T, w way) {
		for name, cmd := range map[string]wire.Command{"write": wire.CmdWrite, "read": wire.CmdRead} {
			var flags wire.CommandFlags
			short := uint64(4096)
			if cmd == wire.CmdWrite && w.tls && w.form == extendedReplies {
				short = wire.MaxBlock
			}
			if cmd == wire.CmdRead && w.form != simpleReplies {
				flags = wire.FlagDF // or there would be nothing but a hole to send
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newMemory(t, 64*mib)
					w.secure(t, s)
					setLimits(t, s, Limits{MaxMemory: wire.MaxBlock})
					slow, hog, c := connect(t, s), connect(t, s), connect(t, s)
					for _, c := range []*rawClient{slow, hog, c} {
						w.enter(c)
					}
					took := make(chan time.Duration)
					write := func() {
						start := time.Now()
						if a := w.ask(c, 0, wire.CmdWrite, 0, short, make([]byte, short)); a.errno != 0 {
							t.Error(a.errno)
						}
						took <- time.Since(start)
					}
					// A piece now and then.
					w.send(slow, flags, cmd, 1, 0, long)
					synctest.Wait()
					go write()
					for range long / piece {
						time.Sleep(pause)
						if cmd == wire.CmdWrite {
							slow.put(make([]byte, piece))
						} else {
							slow.get(piece) // the header among it
						}
					}
					if cmd == wire.CmdWrite {
						w.answer(slow, 0, cmd, 1, 0, long)
					}
					go discard(slow)
					about(t, "behind a slow client", <-took, long/piece*pause)
					if n := s.stalled.Load(); n != 0 {
						t.Errorf("%d stalled", n)
					}
					// A byte now and then.
					w.send(hog, flags, cmd, 1, 0, wire.MaxBlock)
					synctest.Wait()
					var trickle sync.WaitGroup
					trickle.Go(func() {
						for {
							time.Sleep(time.Second)
							var err error
							if cmd == wire.CmdWrite {
								_, err = hog.Write([]byte{1})
							} else {
								_, err = hog.Read(make([]byte, 1))
							}
							if err != nil {
								return
							}
						}
					})
					time.Sleep(time.Hour)
					go write()
					about(t, "behind one who stalls", <-took, stallTimeout)
					trickle.Wait()
					if n := s.stalled.Load(); n != 1 {
						t.Errorf("%d stalled", n)
					}
					closeAll(slow, hog, c)
					synctest.Wait()
					nothingLeft(t, s)
				})
			})
		}
	})
}

// TestLimitsChangeInEveryForm: limits of a connection that are changed hold at
// once, for what waits under the old ones too.
func TestLimitsChangeInEveryForm(t *testing.T) {
	ways(t, func(t *testing.T, w way) {
		synctest.Test(t, func(t *testing.T) {
			s := newMemory(t, 64*mib)
			w.secure(t, s)
			setLimits(t, s, Limits{ConnectionRate: Rate{BytesPerSecond: 1}, MaxConnectionMemory: 32 * mib})
			g := gate(s)
			g.readGate = make(chan struct{})
			c := connect(t, s)
			w.enter(c)
			var flags wire.CommandFlags
			if w.form != simpleReplies {
				flags = wire.FlagDF // reads the holes too
			}
			w.send(c, flags, wire.CmdRead, 1, 0, mib)
			time.Sleep(time.Hour)
			if n := s.inFlight.Load(); n != 0 {
				t.Errorf("%d requests in flight under the rate", n)
			}
			setLimits(t, s, Limits{MaxConnectionMemory: 48 * mib})
			go func() {
				for cookie := range uint64(3) {
					w.send(c, flags, wire.CmdRead, 2+cookie, 0, 16*mib)
				}
			}()
			synctest.Wait()
			if n := s.inFlight.Load(); n != 3 { // of 1, 16 and 16 MiB
				t.Errorf("%d requests in flight", n)
			}
			setLimits(t, s, Limits{})
			synctest.Wait()
			if n := s.inFlight.Load(); n != 4 {
				t.Errorf("%d requests in flight when there is more memory", n)
			}
			c.Close()
			close(g.readGate)
			synctest.Wait()
			nothingLeft(t, s)
		})
	})
}

// TestStallWithoutMemory: only who holds memory is closed for the sake of those who
// wait for it, whatever it held before, and however it stalls.
func TestStallWithoutMemory(t *testing.T) {
	ways(t, func(t *testing.T, w way) {
		synctest.Test(t, func(t *testing.T) {
			s := newMemory(t, 64*mib)
			w.secure(t, s)
			setLimits(t, s, Limits{MaxMemory: wire.MaxBlock})
			h := &held{s.Exports[0].Backend, make(chan struct{}, 9), make(chan struct{}, 9)}
			s.Exports[0].Backend = h
			h.release <- struct{}{}
			stalls, holds, waits := connect(t, s), connect(t, s), connect(t, s)
			for _, c := range []*rawClient{stalls, holds, waits} {
				w.enter(c)
			}
			w.ask(stalls, 0, wire.CmdRead, 0, 512)
			w.send(stalls, 0, wire.CmdFlush, 1, 0, 0) // whose reply it doesn't read
			var flags wire.CommandFlags
			if w.form != simpleReplies {
				flags = wire.FlagDF
			}
			w.send(holds, flags, wire.CmdRead, 1, 0, wire.MaxBlock)
			synctest.Wait()
			w.send(waits, 0, wire.CmdRead, 1, 0, 512)
			time.Sleep(time.Hour)
			close(h.release)
			w.answer(holds, flags, wire.CmdRead, 1, 0, wire.MaxBlock)
			w.answer(waits, 0, wire.CmdRead, 1, 0, 512)
			w.answer(stalls, 0, wire.CmdFlush, 1, 0, 0)
			if n := s.stalled.Load(); n != 0 {
				t.Errorf("%d stalled", n)
			}
			closeAll(stalls, holds, waits)
			synctest.Wait()
			nothingLeft(t, s)
		})
	})
}
