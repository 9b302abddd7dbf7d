package nbdserver

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/nbdexport/nbdexport/nbdserver/backend/memory"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// negotiating is a client of a server with the exports "disk" and "scratch",
// its greeting done.
func negotiating(t *testing.T) *rawClient {
	s := newMemory(t, 1<<20)
	m, err := memory.New(1 << 30)
	if err != nil {
		t.Fatal(err)
	}
	s.Exports = append(s.Exports, &Export{Name: "scratch", Description: "lost at the end", ReadOnly: true, Backend: m})
	c := connect(t, s)
	t.Cleanup(func() { c.Close() })
	c.greet(3)
	return c
}

func TestOptions(t *testing.T) {
	const (
		ack, server, info, meta = wire.RepAck, wire.RepServer, wire.RepInfo, wire.RepMetaContext
		invalid, unknown, unsup = wire.RepErrInvalid, wire.RepErrUnknown, wire.RepErrUnsup
	)
	alloc := str("base:allocation")
	tests := []struct {
		name       string
		structured bool
		option     wire.Option
		payload    []any
		want       []wire.OptionReply
	}{
		{"list", false, wire.OptList, nil, []wire.OptionReply{server, server, ack}},
		{"list with a payload", false, wire.OptList, []any{"x"}, []wire.OptionReply{invalid}},
		{"info", false, wire.OptInfo, []any{str("disk"), uint16(0)}, []wire.OptionReply{info, ack}},
		{"info, everything", false, wire.OptInfo, []any{str("scratch"), uint16(4), uint16(0), uint16(1), uint16(2), uint16(3)}, []wire.OptionReply{info, info, info, info, ack}},
		{"info, no description", false, wire.OptInfo, []any{str("disk"), uint16(1), uint16(2)}, []wire.OptionReply{info, ack}},
		{"info, unknown type", false, wire.OptInfo, []any{str("disk"), uint16(1), uint16(77)}, []wire.OptionReply{info, ack}},
		{"info, asked twice", false, wire.OptInfo, []any{str("disk"), uint16(2), uint16(3), uint16(3)}, []wire.OptionReply{info, info, ack}},
		{"info, no such export", false, wire.OptInfo, []any{str("nope"), uint16(0)}, []wire.OptionReply{unknown}},
		{"info, empty payload", false, wire.OptInfo, nil, []wire.OptionReply{invalid}},
		{"info, count missing", false, wire.OptInfo, []any{str("disk")}, []wire.OptionReply{invalid}},
		{"info, count too high", false, wire.OptInfo, []any{str("disk"), uint16(9), uint16(0)}, []wire.OptionReply{invalid}},
		{"info, name reaches beyond the payload", false, wire.OptInfo, []any{uint32(1 << 31), "disk", uint16(0)}, []wire.OptionReply{invalid}},
		{"info, name of 5,000 bytes", false, wire.OptInfo, []any{str(strings.Repeat("x", 5000)), uint16(0)}, []wire.OptionReply{invalid}},
		{"info, name of 4,096 bytes", false, wire.OptInfo, []any{str(strings.Repeat("x", 4096)), uint16(0)}, []wire.OptionReply{unknown}},
		{"info, name with a NUL", false, wire.OptInfo, []any{str("disk\x00"), uint16(0)}, []wire.OptionReply{invalid}},
		{"info, name not UTF-8", false, wire.OptInfo, []any{str("\xff"), uint16(0)}, []wire.OptionReply{invalid}},
		{"go, no such export", false, wire.OptGo, []any{str("nope"), uint16(0)}, []wire.OptionReply{unknown}},
		{"structured with a payload", false, wire.OptStructuredReply, []any{"x"}, []wire.OptionReply{invalid}},
		{"structured twice", true, wire.OptStructuredReply, nil, []wire.OptionReply{ack}},
		{"set context before structured", false, wire.OptSetMetaContext, []any{str(""), uint32(1), alloc}, []wire.OptionReply{invalid}},
		{"set context", true, wire.OptSetMetaContext, []any{str("scratch"), uint32(2), str("qemu:dirty-bitmap:x"), alloc}, []wire.OptionReply{meta, ack}},
		{"set no context", true, wire.OptSetMetaContext, []any{str(""), uint32(0)}, []wire.OptionReply{ack}},
		{"set wildcard", true, wire.OptSetMetaContext, []any{str(""), uint32(1), str("base:")}, []wire.OptionReply{ack}},
		{"set context, no such export", true, wire.OptSetMetaContext, []any{str("nope"), uint32(1), alloc}, []wire.OptionReply{unknown}},
		{"list all contexts", true, wire.OptListMetaContext, []any{str(""), uint32(0)}, []wire.OptionReply{meta, ack}},
		{"list wildcard", true, wire.OptListMetaContext, []any{str(""), uint32(1), str("base:")}, []wire.OptionReply{meta, ack}},
		{"list other namespace", true, wire.OptListMetaContext, []any{str(""), uint32(1), str("qemu:")}, []wire.OptionReply{ack}},
		{"list several namespaces", true, wire.OptListMetaContext, []any{str(""), uint32(3), str("qemu:"), str("base:"), alloc}, []wire.OptionReply{meta, ack}},
		{"list other leaf", true, wire.OptListMetaContext, []any{str(""), uint32(1), str("base:dirty")}, []wire.OptionReply{ack}},
		{"list without a namespace", true, wire.OptListMetaContext, []any{str(""), uint32(1), str("base")}, []wire.OptionReply{ack}},
		{"list contexts, no such export", true, wire.OptListMetaContext, []any{str("nope"), uint32(0)}, []wire.OptionReply{unknown}},
		{"list contexts before structured", false, wire.OptListMetaContext, []any{str(""), uint32(0)}, []wire.OptionReply{invalid}},
		{"set other namespace", true, wire.OptSetMetaContext, []any{str(""), uint32(1), str("x-mine:allocation")}, []wire.OptionReply{ack}},
		{"set the same twice", true, wire.OptSetMetaContext, []any{str(""), uint32(2), alloc, alloc}, []wire.OptionReply{meta, ack}},
		{"context, more queries than bytes", true, wire.OptSetMetaContext, []any{str(""), uint32(1 << 31), alloc}, []wire.OptionReply{invalid}},
		{"context, bytes behind the last query", true, wire.OptSetMetaContext, []any{str(""), uint32(1), alloc, "x"}, []wire.OptionReply{invalid}},
		{"starttls", false, wire.OptStartTLS, nil, []wire.OptionReply{wire.RepErrPolicy}},
		{"extended headers", false, wire.OptExtendedHeaders, nil, []wire.OptionReply{ack}},
		{"extended headers after structured", true, wire.OptExtendedHeaders, nil, []wire.OptionReply{ack}},
		{"extended headers with a payload", false, wire.OptExtendedHeaders, []any{"x"}, []wire.OptionReply{invalid}},
		{"unknown option", false, 4711, []any{"whatever"}, []wire.OptionReply{unsup}},
		{"option of 100 KiB", false, wire.OptList, []any{make([]byte, 100<<10)}, []wire.OptionReply{wire.RepErrTooBig}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := negotiating(t)
			if tt.structured {
				c.option(wire.OptStructuredReply)
				c.expect(wire.OptStructuredReply, wire.RepAck)
			}
			sent := make(chan struct{})
			go func() { // a pipe has no buffer: the answer may come before all is sent
				defer close(sent)
				c.option(tt.option, tt.payload...)
			}()
			if got, p := c.replies(tt.option); !slices.Equal(got, tt.want) {
				t.Errorf("answered %#x (%q), not %#x", got, p, tt.want)
			}
			<-sent
			// Whatever it was, the negotiation goes on.
			c.option(wire.OptGo, str("disk"), uint16(0))
			c.expect(wire.OptGo, wire.RepAck)
		})
	}
}

func TestInfoPayloads(t *testing.T) {
	c := negotiating(t)
	c.option(wire.OptInfo, str("scratch"), uint16(3), uint16(1), uint16(2), uint16(3))
	// CACHE, READ_ONLY, SEND_FLUSH, CAN_MULTI_CONN, HAS_FLAGS
	for _, want := range [][]byte{
		pack(uint16(0), uint64(1<<30), uint16(1<<10|1<<8|1<<2|1<<1|1)),
		pack(uint16(1), "scratch"),
		pack(uint16(2), "lost at the end"),
	} {
		if typ, got := c.reply(wire.OptInfo); typ != wire.RepInfo || !bytes.Equal(got, want) {
			t.Errorf("reply %#x %x, not %x", typ, got, want)
		}
	}
	_, p := c.reply(wire.OptInfo)
	if minimum, maximum := binary.BigEndian.Uint32(p[2:]), binary.BigEndian.Uint32(p[10:]); minimum != 1 || maximum != 32<<20 {
		t.Errorf("block sizes from %d to %d", minimum, maximum)
	}
}

func TestExportName(t *testing.T) {
	for _, tt := range []struct {
		name  string
		flags uint32
		size  int
	}{{"with zeroes", 1, 134}, {"without zeroes", 3, 10}, {"not even fixed newstyle", 0, 134}} {
		t.Run(tt.name, func(t *testing.T) {
			s := newMemory(t, 1<<20)
			c := connect(t, s)
			defer c.Close()
			c.greet(tt.flags)
			c.option(wire.OptExportName, "disk")
			b := c.get(tt.size)
			if size := binary.BigEndian.Uint64(b); size != 1<<20 {
				t.Errorf("size %d", size)
			}
			// CACHE, MULTI_CONN, WRITE_ZEROES, TRIM, FUA, FLUSH, HAS_FLAGS
			if flags := binary.BigEndian.Uint16(b[8:]); flags&^(1<<11) != 1<<10|1<<8|1<<6|1<<5|1<<3|1<<2|1 { // fast zeroes are the Backend's affair
				t.Errorf("transmission flags %#x", flags)
			}
			c.request(0, wire.CmdRead, 1, 0, 4)
			c.must(1, 0)
		})
	}
}

// Where the client is told nothing but that the connection closes.
func TestNegotiationHangsUp(t *testing.T) {
	for name, say := range map[string]func(*rawClient){
		"unknown client flags":      func(c *rawClient) { c.get(18); c.put(uint32(4)) },
		"wrong option magic":        func(c *rawClient) { c.greet(3); c.put("IHAVEOPS", uint32(3), uint32(0)) },
		"no such export, old way":   func(c *rawClient) { c.greet(3); c.option(wire.OptExportName, "nope") },
		"name of 5,000, old way":    func(c *rawClient) { c.greet(3); c.option(wire.OptExportName, make([]byte, 5000)) },
		"name of 4 GiB, old way":    func(c *rawClient) { c.greet(3); c.put("IHAVEOPT", uint32(1), uint32(1<<32-1)) },
		"closes after the flags":    func(c *rawClient) { c.greet(3); c.Close() },
		"closes within an option":   func(c *rawClient) { c.greet(3); c.put("IHAVEOPT"); c.Close() },
		"closes within a payload":   func(c *rawClient) { c.greet(3); c.put("IHAVEOPT", uint32(3), uint32(8), "x"); c.Close() },
		"not fixed, another option": func(c *rawClient) { c.greet(0); c.option(wire.OptList) },
		"not fixed, aborts":         func(c *rawClient) { c.greet(2); c.option(wire.OptAbort) },
		"extended, old way":         func(c *rawClient) { c.greet(3); c.extend(); c.option(wire.OptExportName, "disk") },
		"aborts":                    func(c *rawClient) { c.greet(3); c.option(wire.OptAbort); c.expect(wire.OptAbort, wire.RepAck) },
		"option of 4 GiB":           func(c *rawClient) { hugeOption(c) },
		"37 options and no export":  func(c *rawClient) { manyOptions(c) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 1<<20)
				c := connect(t, s)
				say(c)
				c.eof()
				synctest.Wait()
				if n := len(s.connections()); n != 0 {
					t.Errorf("%d connections left", n)
				}
			})
		})
	}
}

func hugeOption(c *rawClient) {
	c.greet(3)
	c.put("IHAVEOPT", uint32(wire.OptInfo), uint32(1<<32-1))
	c.expect(wire.OptInfo, wire.RepErrTooBig)
}

func manyOptions(c *rawClient) {
	c.greet(3)
	for range maxOptions + maxPerExport {
		c.option(wire.OptList)
		c.expect(wire.OptList, wire.RepAck)
	}
}

// To set contexts replaces what was set before, also when it fails.
func TestFailedSetContext(t *testing.T) {
	for name, payload := range map[string][]any{
		"no such export": {str("nope"), uint32(1), str("base:allocation")},
		"malformed":      {str("disk")},
		"too big":        {make([]byte, 100<<10)},
	} {
		c := negotiating(t)
		c.option(wire.OptStructuredReply)
		c.expect(wire.OptStructuredReply, wire.RepAck)
		c.option(wire.OptSetMetaContext, str("disk"), uint32(1), str("base:allocation"))
		c.expect(wire.OptSetMetaContext, wire.RepAck)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			c.option(wire.OptSetMetaContext, payload...)
		}()
		c.replies(wire.OptSetMetaContext)
		<-sent
		c.option(wire.OptGo, str("disk"), uint16(0))
		c.expect(wire.OptGo, wire.RepAck)
		c.request(0, wire.CmdBlockStatus, 1, 0, 4096)
		if why := c.mustFail(1, wire.EINVAL); why == "" {
			t.Errorf("%s: no reason is given", name)
		}
	}
}

// A SET that selects nothing, or only what isn't there, leaves none of what was
// set before.
func TestSetContextReplaces(t *testing.T) {
	for _, queries := range [][]any{
		{uint32(0)}, {uint32(1), str("base:")}, {uint32(1), str("qemu:dirty-bitmap:x")},
	} {
		c := negotiating(t)
		c.option(wire.OptStructuredReply)
		c.expect(wire.OptStructuredReply, wire.RepAck)
		c.option(wire.OptSetMetaContext, str("disk"), uint32(1), str("base:allocation"))
		c.expect(wire.OptSetMetaContext, wire.RepAck)
		c.option(wire.OptSetMetaContext, append([]any{str("disk")}, queries...)...)
		c.expect(wire.OptSetMetaContext, wire.RepAck)
		c.option(wire.OptGo, str("disk"), uint16(0))
		c.expect(wire.OptGo, wire.RepAck)
		c.request(0, wire.CmdBlockStatus, 1, 0, 4096)
		c.mustFail(1, wire.EINVAL)
	}
}

// Without structured replies there are no contexts, whatever was tried.
func TestNoContextWithoutChunks(t *testing.T) {
	c := negotiating(t)
	c.option(wire.OptSetMetaContext, str("disk"), uint32(1), str("base:allocation"))
	c.expect(wire.OptSetMetaContext, wire.RepErrInvalid)
	c.option(wire.OptGo, str("disk"), uint16(0))
	c.expect(wire.OptGo, wire.RepAck)
	c.request(0, wire.CmdBlockStatus, 1, 0, 4096)
	c.must(1, wire.EINVAL)
}

// The number of a context means something once it is set, and not before.
func TestContextNumbers(t *testing.T) {
	for opt, id := range map[wire.Option]uint32{wire.OptListMetaContext: 0, wire.OptSetMetaContext: 1} {
		c := negotiating(t)
		c.option(wire.OptStructuredReply)
		c.expect(wire.OptStructuredReply, wire.RepAck)
		c.option(opt, str("disk"), uint32(1), str("base:allocation"))
		if typ, p := c.reply(opt); typ != wire.RepMetaContext || !bytes.Equal(p, pack(id, "base:allocation")) {
			t.Errorf("%v: reply %#x %q", opt, uint32(typ), p)
		}
		c.expect(opt, wire.RepAck)
	}
}

// A client may look around as it likes before it chooses.
func TestLookingAround(t *testing.T) {
	c := negotiating(t)
	for range 2 {
		c.option(wire.OptList)
		c.expect(wire.OptList, wire.RepAck)
		for name, want := range map[string]wire.OptionReply{"disk": wire.RepAck, "nope": wire.RepErrUnknown, "scratch": wire.RepAck} {
			c.option(wire.OptInfo, str(name), uint16(1), uint16(3))
			c.expect(wire.OptInfo, want)
		}
	}
	c.option(wire.OptGo, str("disk"), uint16(0))
	_, p := c.reply(wire.OptGo)
	if size := binary.BigEndian.Uint64(p[2:]); size != 1<<20 {
		t.Errorf("the size is %d: of another export than the one that was chosen", size)
	}
	c.expect(wire.OptGo, wire.RepAck)
	// The end is that of this export too.
	c.request(0, wire.CmdRead, 1, 1<<20, 4)
	c.must(1, wire.EINVAL)
}

// A message is a string like any other: 4096 bytes at most.
func TestMessageOfALongName(t *testing.T) {
	c := negotiating(t)
	c.option(wire.OptInfo, str(strings.Repeat("\x01", 4096)), uint16(0))
	if _, p := c.replies(wire.OptInfo); len(p) > 4096 {
		t.Errorf("a message of %d bytes", len(p))
	}
}

// Contexts hold for the export that they were set for.
func TestContextOfAnotherExport(t *testing.T) {
	for _, tt := range []struct {
		set string
		e   wire.Errno
	}{{"disk", 0}, {"", 0}, {"scratch", wire.EINVAL}} {
		c := negotiating(t)
		c.option(wire.OptStructuredReply)
		c.expect(wire.OptStructuredReply, wire.RepAck)
		c.option(wire.OptSetMetaContext, str(tt.set), uint32(1), str("base:allocation"))
		c.expect(wire.OptSetMetaContext, wire.RepAck)
		c.option(wire.OptGo, str("disk"), uint16(0))
		c.expect(wire.OptGo, wire.RepAck)
		c.request(0, wire.CmdBlockStatus, 1, 0, 4096)
		if tt.e != 0 {
			c.mustFail(1, tt.e)
		} else if _, typ, _, _ := c.chunk(); typ != 5 {
			t.Errorf("set for %q: chunk type %#x", tt.set, typ)
		}
	}
}
