package nbdserver

import (
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/certificates"
	"github.com/nbdexport/nbdexport/nbdserver/report"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

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
