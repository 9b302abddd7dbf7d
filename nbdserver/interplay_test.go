package nbdserver

import (
	"bytes"
	"crypto/tls"
	"math/rand/v2"
	"reflect"
	"slices"
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
