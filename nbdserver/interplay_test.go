package nbdserver

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/certificates"
	"github.com/nbdexport/nbdexport/nbdserver/report"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// What features do to one another. Each has tests of its own.

// ways are all in which a client can talk to a server.
func ways(t *testing.T, test func(t *testing.T, w way)) {
	for form, name := range []string{"simple", "structured", "extended"} {
		for _, overTLS := range []bool{false, true} {
			if overTLS {
				name += " over TLS"
			}
			t.Run(name, func(t *testing.T) { test(t, way{form: form, tls: overTLS}) })
		}
	}
}

type way struct {
	form   int
	tls    bool
	config *tls.Config // of the client
}

// secure has the server require TLS if that is the way.
func (w *way) secure(t *testing.T, s *Server) {
	t.Helper()
	if w.tls {
		w.config, _ = encrypt(t, s, TLSRequire, certificates.Options{VerifyPeer: true})
	}
}

// prepare negotiates everything but the export.
func (w *way) prepare(c *rawClient) {
	c.t.Helper()
	c.greet(3)
	if w.tls {
		c.startTLS(w.config)
	}
	switch w.form {
	case simpleReplies:
		return
	case structuredReplies:
		c.option(wire.OptStructuredReply)
		c.expect(wire.OptStructuredReply, wire.RepAck)
	case extendedReplies:
		c.extend()
	}
	c.option(wire.OptSetMetaContext, str(""), uint32(1), str("base:allocation"))
	c.expect(wire.OptSetMetaContext, wire.RepAck)
}

func (w *way) enter(c *rawClient) {
	c.t.Helper()
	w.prepare(c)
	c.option(wire.OptGo, str(""), uint16(0))
	c.expect(wire.OptGo, wire.RepAck)
}

func (w *way) send(c *rawClient, flags wire.CommandFlags, cmd wire.Command, cookie, offset, length uint64, data ...any) {
	c.t.Helper()
	if w.form == extendedReplies {
		if cmd == wire.CmdWrite {
			flags |= wire.FlagPayloadLen
		}
		c.extended(flags, cmd, cookie, offset, length, data...)
	} else {
		c.request(flags, cmd, cookie, offset, uint32(length), data...)
	}
}

// answer reads the whole reply to what was sent.
func (w *way) answer(c *rawClient, flags wire.CommandFlags, cmd wire.Command, cookie, offset, length uint64) *asked {
	c.t.Helper()
	a := &asked{flags: flags, cmd: cmd, offset: offset, length: length}
	p := replyReader{c, w.form, []uint32{1}, map[uint64]*asked{cookie: a}}
	for len(p.waiting) > 0 {
		if _, err := p.next(); err != nil {
			c.t.Fatalf("the reply to %v: %v", cmd, err)
		}
	}
	return a
}

func (w *way) ask(c *rawClient, flags wire.CommandFlags, cmd wire.Command, offset, length uint64, data ...any) *asked {
	c.t.Helper()
	w.send(c, flags, cmd, 1, offset, length, data...)
	return w.answer(c, flags, cmd, 1, offset, length)
}

// TestSameOverTLS: a client gets the same answers over TLS as without, in the
// same parts, whatever their size and number of holes.
func TestSameOverTLS(t *testing.T) {
	const k, size = 1 << 10, 8 * mib
	noise := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise) // which never fails
	content := make([]byte, size)
	for i := 0; i < 2*mib; i += 128 * k { // 32 KiB of data every 128
		copy(content[i:], noise[i:][:32*k])
	}
	copy(content[4*mib:], noise[:2*mib])
	answers := map[int][]*asked{}
	ways(t, func(t *testing.T, w way) {
		s := newMemory(t, size)
		w.secure(t, s)
		c := dial(t, listen(t, s))
		w.enter(c)
		for i := 0; i < 2*mib; i += 128 * k {
			if a := w.ask(c, 0, wire.CmdWrite, uint64(i), 32*k, content[i:][:32*k]); a.errno != 0 {
				t.Fatal(a.errno)
			}
		}
		if a := w.ask(c, wire.FlagFUA, wire.CmdWrite, 4*mib, 2*mib, content[4*mib:][:2*mib]); a.errno != 0 {
			t.Fatal(a.errno)
		}
		const read, status = wire.CmdRead, wire.CmdBlockStatus
		for i, r := range []struct {
			flags          wire.CommandFlags
			cmd            wire.Command
			offset, length uint64
			data           []byte // that must come
		}{
			{0, read, 0, size, content},
			{0, read, 1, 2*mib - 1, content[1:][:2*mib-1]},
			{0, read, 4*mib + 1, mib, content[4*mib+1:][:mib]},
			{0, read, 7 * mib, 64 * k, content[7*mib:][:64*k]},         // one hole
			{0, read, 3*mib + 12345, mib, content[3*mib+12345:][:mib]}, // a hole, and a little data
			{wire.FlagFUA, read, 16*k - 20, 16 * k, content[16*k-20:][:16*k]},
			{0, read, 0, 1, content[:1]},
			{0, read, size - 4, 8, nil},
			{0, read, 0, 33 * mib, nil},
			{0, status, 0, size, nil},
			{wire.FlagReqOne, status, 32 * k, size - 32*k, nil},
			{0, wire.CmdFlush, 0, 0, nil},
			{0, wire.CmdTrim, 4 * mib, mib, nil},
			{wire.FlagNoHole, wire.CmdWriteZeroes, 0, 64 * k, nil},
			{0, status, 0, size, nil},
			{0, wire.CmdWriteZeroes, size, 512, nil},
			{0, read, 0, size, slices.Concat(make([]byte, 64*k), content[64*k:4*mib], make([]byte, mib), content[5*mib:])},
			{0, 4711, 0, 0, nil},
		} {
			a := w.ask(c, r.flags, r.cmd, r.offset, r.length)
			if r.data != nil && !bytes.Equal(a.data, r.data) {
				t.Errorf("%d bytes at %d are wrong: %v %s", r.length, r.offset, a.errno, a.why)
			}
			if i == 0 && w.form != simpleReplies && a.holes < 10 {
				t.Errorf("%d holes", a.holes)
			}
			if a.data = nil; !w.tls {
				answers[w.form] = append(answers[w.form], a)
			} else if !reflect.DeepEqual(a, answers[w.form][i]) {
				t.Errorf("%v of %d bytes at %d is answered %+v, and without TLS %+v", r.cmd, r.length, r.offset, a, answers[w.form][i])
			}
		}
		w.send(c, 0, wire.CmdDisc, 2, 0, 0)
		c.eof()
	})
}

// TestDrainInEveryForm: what is in flight when the grace is over completes; what
// comes later gets ESHUTDOWN in the form that was negotiated, or the connection is
// closed.
func TestDrainInEveryForm(t *testing.T) {
	for name, policy := range map[string]Policy{"refuse": Refuse, "disconnect": Disconnect} {
		t.Run(name, func(t *testing.T) {
			ways(t, func(t *testing.T, w way) {
				synctest.Test(t, func(t *testing.T) {
					s := newMemory(t, mib)
					w.secure(t, s)
					s.DrainPolicy = bounds(policy)
					h := &held{s.Exports[0].Backend, make(chan struct{}), make(chan struct{})}
					s.Exports[0].Backend = h
					c := connect(t, s)
					w.enter(c)
					w.send(c, 0, wire.CmdRead, 7, 4096, 4096)
					<-h.began
					s.BeginDrain("test")
					time.Sleep(5 * time.Second)
					if a := w.ask(c, 0, wire.CmdFlush, 0, 0); a.errno != 0 {
						t.Errorf("within the grace: %v", a.errno)
					}
					time.Sleep(10 * time.Second)
					if policy == Refuse {
						for _, cmd := range []wire.Command{wire.CmdRead, wire.CmdWrite, wire.CmdWriteZeroes, wire.CmdBlockStatus, wire.CmdFlush} {
							length, data := uint64(512), []byte(nil)
							if cmd == wire.CmdWrite {
								data = make([]byte, 512)
							}
							a := w.ask(c, 0, cmd, 0, length, data)
							if a.errno != wire.ESHUTDOWN || w.form != simpleReplies && a.why == "" {
								t.Errorf("%v: %v %q", cmd, a.errno, a.why)
							}
						}
					}
					close(h.release)
					if a := w.answer(c, 0, wire.CmdRead, 7, 4096, 4096); a.errno != 0 {
						t.Errorf("what was in flight: %v", a.errno)
					}
					if policy == Refuse {
						w.send(c, 0, wire.CmdDisc, 2, 0, 0)
					}
					c.eof()
					ended(t, s, 15*time.Second, report.ExitClean)
				})
			})
		})
	}
}

// TestStatusOfAnotherSize: a block status request whose length is in its payload
// is held to the size that its client was told; a context that was set before the
// size changed is good for the size at GO.
func TestStatusOfAnotherSize(t *testing.T) {
	s, e := newElastic(t)
	client, _ := encrypt(t, s, TLSOn, certificates.Options{})
	addr := listen(t, s)
	status := func(c *rawClient, offset, length uint64) (sum uint64, e wire.Errno, at uint64) {
		t.Helper()
		w := way{form: extendedReplies}
		c.extended(wire.FlagPayloadLen, wire.CmdBlockStatus, 1, offset, 12, length, uint32(1))
		a := w.answer(c, 0, wire.CmdBlockStatus, 1, offset, length)
		for _, x := range a.extents {
			sum += x[0]
		}
		return sum, a.errno, a.at
	}
	old := dial(t, addr)
	old.beginExtended()
	between := dial(t, addr)
	w := way{form: extendedReplies, tls: true, config: client}
	w.prepare(between)
	e.now.Store(3 * mib)
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := between.goSize(wire.OptGo); got != 3*mib {
		t.Errorf("GO told a size of %d", got)
	}
	for name, tt := range map[string]struct {
		c    *rawClient
		size uint64
	}{"from before": {old, mib}, "in the middle of the negotiation": {between, 3 * mib}} {
		for _, length := range []uint64{tt.size, 4} { // 4 is less than the payload
			if sum, e, _ := status(tt.c, tt.size-length, length); e != 0 || sum != length {
				t.Errorf("%s: the status of %d bytes is of %d, %v", name, length, sum, e)
			}
		}
		if _, e, at := status(tt.c, 0, tt.size+512); e != wire.EINVAL || at != tt.size {
			t.Errorf("%s: beyond the end: %v at %d", name, e, at)
		}
	}
}

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

func discard(c *rawClient) {
	b := make([]byte, 1<<16)
	for _, err := c.Read(b); err == nil; _, err = c.Read(b) {
	}
}

// nothingLeft checks that whatever connections have taken was given back, once.
func nothingLeft(t *testing.T, s *Server) {
	t.Helper()
	s.mu.Lock()
	conns, clients, calls := len(s.conns), 0, 0
	for _, e := range s.Exports {
		clients += e.clients
		calls += len(e.work)
	}
	s.mu.Unlock()
	if conns != 0 || clients != 0 {
		t.Errorf("%d connections are left, and %d clients of exports", conns, clients)
	}
	s.memory.mu.Lock()
	held, waiting := s.memory.held, s.memory.waiting.Len()
	s.memory.mu.Unlock()
	if held != 0 || waiting != 0 || s.inFlight.Load() != 0 || calls != 0 {
		t.Errorf("%d bytes are held, %d wait for memory, %d requests are in flight, %d at work", held, waiting, s.inFlight.Load(), calls)
	}
}

// TestEvictedFromTLSHandshake: who says STARTTLS and then nothing is displaced as
// any other that negotiates, and so is who has got through the handshake and has
// no export yet.
func TestEvictedFromTLSHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, mib)
		client, _ := encrypt(t, s, TLSRequire, certificates.Options{VerifyPeer: true})
		logs := observe(s)
		setLimits(t, s, Limits{MaxConnections: 3})
		w := way{form: extendedReplies, tls: true, config: client}
		silent := negotiators(t, s, "192.0.2.1", "192.0.2.2")
		for _, c := range silent {
			c.option(wire.OptStartTLS)
			c.expect(wire.OptStartTLS, wire.RepAck)
		}
		idle := connectFrom(t, s, "192.0.2.3")
		w.prepare(idle)
		for i, displaced := range append(slices.Clone(silent), idle) {
			c := connectFrom(t, s, "192.0.2.4")
			displaced.eof()
			w.enter(c)
			if a := w.ask(c, 0, wire.CmdRead, 0, 512); a.errno != 0 {
				t.Errorf("client %d: %v", i, a.errno)
			}
			defer c.Close()
			time.Sleep(time.Second)
		}
		connectFrom(t, s, "192.0.2.5").eof()
		if ev, many := s.refused[evicted].Load(), s.refused[tooMany].Load(); ev != 3 || many != 1 {
			t.Errorf("%d evicted, %d too many", ev, many)
		}
		if got := ends(logs); !slices.Equal(got, slices.Repeat([]string{errEvicted.Error()}, 3)) {
			t.Errorf("the log says %q", got)
		}
	})
}

// TestHiddenAndDenied: before TLS nothing is said of an export that requires it,
// not even that it is denied; over TLS the limits of the export hold. A place
// is taken by who gets the export alone.
func TestHiddenAndDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := twoVolumes(t)
		s.Exports[1].RequireTLS = true
		client, _ := encrypt(t, s, TLSOn, certificates.Options{})
		l := Limits{Exports: map[string]ExportLimits{"second": {MaxConnections: 1, Allow: []string{"192.0.2.1"}, Deny: []string{"all"}}}}
		setLimits(t, s, l)
		stranger, permitted, late := connectFrom(t, s, "192.0.2.2"), connectFrom(t, s, "192.0.2.1"), connectFrom(t, s, "192.0.2.1")
		last := func(c *rawClient, o wire.Option) wire.OptionReply {
			t.Helper()
			if c.option(o, str("second"), uint16(0)); o == wire.OptSetMetaContext {
				t.Fatal("has another payload")
			}
			types, _ := c.replies(o)
			return types[len(types)-1]
		}
		listed := func(c *rawClient, want int) {
			t.Helper()
			c.option(wire.OptList)
			if types, _ := c.replies(wire.OptList); len(types) != want+1 {
				t.Errorf("%d exports are listed, not %d", len(types)-1, want)
			}
		}
		for _, c := range []*rawClient{stranger, permitted, late} {
			c.greet(3)
			listed(c, 1)
			for _, o := range []wire.Option{wire.OptInfo, wire.OptGo} {
				if got := last(c, o); got != wire.RepErrTLSReqd {
					t.Errorf("before TLS %v is answered %#x", o, uint32(got))
				}
			}
			c.startTLS(client)
		}
		if n := s.refused[deniedExport].Load(); n != 0 || s.Exports[1].clients != 0 {
			t.Errorf("before TLS %d were denied, and there are %d clients", n, s.Exports[1].clients)
		}
		for _, o := range []wire.Option{wire.OptInfo, wire.OptGo} {
			if got := last(stranger, o); got != wire.RepErrPolicy {
				t.Errorf("denied: %v is answered %#x", o, uint32(got))
			}
		}
		listed(stranger, 1)
		listed(permitted, 2)
		if got := last(permitted, wire.OptGo); got != wire.RepAck {
			t.Fatalf("permitted: GO is answered %#x", uint32(got))
		}
		if got := last(late, wire.OptGo); got != wire.RepErrPolicy {
			t.Errorf("one too many: GO is answered %#x", uint32(got))
		}
		permitted.Close()
		synctest.Wait()
		if got := last(late, wire.OptGo); got != wire.RepAck {
			t.Errorf("when the place is free, GO is answered %#x", uint32(got))
		}
		closeAll(stranger, late)
		synctest.Wait()
		nothingLeft(t, s)
	})
}

// TestStatesOfTLSClients: who fails in the TLS handshake, in whatever way, was
// never connected, and gives its place back.
func TestStatesOfTLSClients(t *testing.T) {
	for name, tt := range map[string]struct {
		do   func(*way, *rawClient)
		want []ConnState
	}{
		"no certificate": {func(w *way, c *rawClient) {
			w.config = w.config.Clone()
			w.config.Certificates = nil
			if err := c.refused(w.config); err == nil {
				c.t.Error("let in")
			}
		}, []ConnState{StateNegotiating, StateEnded}},
		"no TLS": {func(_ *way, c *rawClient) {
			c.greet(3)
			c.option(wire.OptStartTLS)
			c.expect(wire.OptStartTLS, wire.RepAck)
			c.put("IHAVEOPT")
		}, []ConnState{StateNegotiating, StateEnded}},
		"no export": {func(w *way, c *rawClient) {
			w.prepare(c)
			c.option(wire.OptAbort)
			c.expect(wire.OptAbort, wire.RepAck)
		}, []ConnState{StateNegotiating, StateEnded}},
		"an export": {func(w *way, c *rawClient) {
			w.enter(c)
		}, []ConnState{StateNegotiating, StateConnected, StateEnded}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newMemory(t, mib)
			w := way{form: extendedReplies, tls: true}
			w.secure(t, s)
			var states []ConnState // of one connection, so in the order of its goroutine
			s.ConnState = func(_ *Conn, state ConnState) { states = append(states, state) }
			c := dial(t, listen(t, s))
			tt.do(&w, c)
			c.Close()
			s.handlers.Wait()
			if !slices.Equal(states, tt.want) {
				t.Errorf("%v, not %v", states, tt.want)
			}
			nothingLeft(t, s)
		})
	}
}

// TestPanicInEveryForm: a panic costs its connection alone, and what it held is
// given back.
func TestPanicInEveryForm(t *testing.T) {
	ways(t, func(t *testing.T, w way) {
		s := newMemory(t, mib)
		w.secure(t, s)
		g := gate(s)
		addr := listen(t, s)
		one, two := dial(t, addr), dial(t, addr)
		w.enter(one)
		w.enter(two)
		g.panics.Store(true)
		w.send(one, 0, wire.CmdWrite, 1, 0, 4, "data")
		one.eof()
		g.panics.Store(false)
		if a := w.ask(two, wire.FlagFUA, wire.CmdWrite, 0, 4, "data"); a.errno != 0 {
			t.Errorf("the other connection: %v", a.errno)
		}
		closeAll(one, two)
		s.handlers.Wait()
		nothingLeft(t, s)
	})
}

// TestStartTLSForgetsExtendedHeaders: what was negotiated in plaintext is to be
// negotiated anew, and may be left.
func TestStartTLSForgetsExtendedHeaders(t *testing.T) {
	s := newMemory(t, mib)
	client, _ := encrypt(t, s, TLSOn, certificates.Options{})
	addr := listen(t, s)
	before := func() *rawClient {
		c := dial(t, addr)
		w := way{form: extendedReplies}
		w.prepare(c)
		c.startTLS(client)
		return c
	}
	for _, form := range []int{simpleReplies, structuredReplies, extendedReplies} {
		c := before()
		switch form {
		case structuredReplies:
			c.option(wire.OptStructuredReply)
			c.expect(wire.OptStructuredReply, wire.RepAck)
		case extendedReplies:
			c.extend()
		}
		c.option(wire.OptGo, str(""), uint16(0))
		_, p := c.reply(wire.OptGo)
		if flags := wire.TransmissionFlags(binary.BigEndian.Uint16(p[10:])); flags&wire.BlockStatusPayload != 0 || flags&wire.SendDF != 0 != (form != simpleReplies) {
			t.Errorf("form %d: the flags are %#x", form, uint16(flags))
		}
		c.expect(wire.OptGo, wire.RepAck)
		w := way{form: form}
		if a := w.ask(c, wire.FlagFUA, wire.CmdWrite, 0, 4, "data"); a.errno != 0 {
			t.Errorf("form %d: %v", form, a.errno)
		}
		if a := w.ask(c, 0, wire.CmdBlockStatus, 0, 512); a.errno != wire.EINVAL {
			t.Errorf("form %d: a context from before TLS: %v", form, a.errno)
		}
	}
	c := before()
	c.option(wire.OptExportName, "disk") // not after extended headers
	c.get(10)
	w := way{}
	if a := w.ask(c, 0, wire.CmdRead, 0, 4); string(a.data) != "data" {
		t.Errorf("%q, %v", a.data, a.errno)
	}
}

// TestStatesOfThoseClosed: whoever the server closes for the sake of others has
// ended, as those see it who count the clients.
func TestStatesOfThoseClosed(t *testing.T) {
	ways(t, func(t *testing.T, w way) {
		synctest.Test(t, func(t *testing.T) {
			s := newMemory(t, 64*mib)
			w.secure(t, s)
			var mu sync.Mutex
			states := map[*Conn][]ConnState{}
			var order []*Conn
			s.ConnState = func(c *Conn, state ConnState) {
				mu.Lock()
				defer mu.Unlock()
				if state == StateNegotiating {
					order = append(order, c)
				}
				states[c] = append(states[c], state)
			}
			setLimits(t, s, Limits{MaxConnections: 3, MaxMemory: wire.MaxBlock})
			stalls, waits := connect(t, s), connect(t, s)
			w.enter(stalls)
			w.enter(waits)
			silent := connect(t, s)
			w.prepare(silent)
			forced := connect(t, s)
			w.enter(forced)
			silent.eof() // evicted
			for _, c := range []*rawClient{stalls, waits} {
				w.send(c, 0, wire.CmdWrite, 1, 0, wire.MaxBlock)
				synctest.Wait()
			}
			stalls.eof()
			for _, c := range s.connections() {
				c.Disconnect(true)
			}
			closeAll(stalls, waits, silent, forced)
			synctest.Wait()
			const negotiating, connected, over = StateNegotiating, StateConnected, StateEnded
			for i, want := range [][]ConnState{{negotiating, connected, over}, {negotiating, connected, over}, {negotiating, over}, {negotiating, connected, over}} {
				if got := states[order[i]]; !slices.Equal(got, want) {
					t.Errorf("connection %d: %v, not %v", i, got, want)
				}
			}
			if s.stalled.Load() != 1 || s.refused[evicted].Load() != 1 {
				t.Errorf("%d stalled, %d evicted", s.stalled.Load(), s.refused[evicted].Load())
			}
			nothingLeft(t, s)
		})
	})
}

// TestDrainOfTheRefused: who was refused an export by a limit still negotiates,
// and loses nothing when the grace of a drain is over.
func TestDrainOfTheRefused(t *testing.T) {
	ways(t, func(t *testing.T, w way) {
		synctest.Test(t, func(t *testing.T) {
			s := newMemory(t, mib)
			w.secure(t, s)
			s.DrainPolicy = bounds(Refuse)
			setLimits(t, s, Limits{HandshakeTimeout: time.Hour, Exports: map[string]ExportLimits{"disk": {MaxConnections: 1}}})
			client, refused := connect(t, s), connect(t, s)
			w.enter(client)
			w.prepare(refused)
			refused.option(wire.OptGo, str(""), uint16(0))
			refused.expect(wire.OptGo, wire.RepErrPolicy)
			s.BeginDrain("test")
			w.send(client, 0, wire.CmdDisc, 1, 0, 0)
			client.eof()
			refused.option(wire.OptGo, str(""), uint16(0))
			refused.expect(wire.OptGo, wire.RepErrShutdown)
			refused.eof()
			ended(t, s, 10*time.Second, report.ExitClean)
			nothingLeft(t, s)
		})
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

// TestEvictedGetsNoExport: a place that a newcomer has been given isn't taken
// again in the moment before its connection is closed.
func TestEvictedGetsNoExport(t *testing.T) {
	ways(t, func(t *testing.T, w way) {
		s := newMemory(t, mib)
		w.secure(t, s)
		c := dial(t, listen(t, s))
		w.prepare(c)
		s.mu.Lock()
		for c := range s.conns {
			c.evicted = true
		}
		s.mu.Unlock()
		c.option(wire.OptGo, str(""), uint16(0))
		c.expect(wire.OptGo, wire.RepErrPolicy)
	})
}
