package nbdserver

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// extend negotiates extended headers.
func (c *rawClient) extend() {
	c.t.Helper()
	c.option(wire.OptExtendedHeaders)
	c.expect(wire.OptExtendedHeaders, wire.RepAck)
}

// beginExtended negotiates the default export with extended headers, and
// base:allocation without structured replies before.
func (c *rawClient) beginExtended() {
	c.t.Helper()
	c.greet(3)
	c.extend()
	c.option(wire.OptSetMetaContext, str(""), uint32(1), str("base:allocation"))
	c.expect(wire.OptSetMetaContext, wire.RepAck)
	c.option(wire.OptGo, str(""), uint16(1), uint16(3))
	c.expect(wire.OptGo, wire.RepAck)
}

func (c *rawClient) extended(flags wire.CommandFlags, cmd wire.Command, cookie, offset, length uint64, data ...any) {
	c.t.Helper()
	c.put(uint32(0x21e41c71), uint16(flags), uint16(cmd), cookie, offset, length, pack(data...))
}

// extendedChunk reads one chunk of an extended reply.
func (c *rawClient) extendedChunk() (flags, typ uint16, cookie, offset uint64, payload []byte) {
	c.t.Helper()
	if m := c.u32(); m != 0x6e8a278c {
		c.t.Fatalf("chunk begins with %#x", m)
	}
	flags, typ, cookie, offset = c.u16(), c.u16(), c.u64(), c.u64()
	return flags, typ, cookie, offset, c.get(int(c.u64()))
}

// mustExtended expects a reply of one chunk, and returns its payload.
func (c *rawClient) mustExtended(typ uint16, cookie, offset uint64) []byte {
	c.t.Helper()
	f, ty, co, off, p := c.extendedChunk()
	if f != 1 || ty != typ || co != cookie || off != offset {
		c.t.Fatalf("chunk is flags %d type %#x request %d offset %d payload %q; not type %#x request %d offset %d", f, ty, co, off, p, typ, cookie, offset)
	}
	return p
}

func TestExtendedReplies(t *testing.T) {
	c := dial(t, listen(t, newMemory(t, 1<<20)))
	c.beginExtended()
	const payload = wire.FlagPayloadLen
	for _, tt := range []struct {
		name   string
		flags  wire.CommandFlags
		cmd    wire.Command
		offset uint64
		length uint64
		data   string
		typ    uint16
		want   []byte
	}{
		{"write", payload, wire.CmdWrite, 100, 5, "hello", 0, nil},
		{"write with FUA", payload | wire.FlagFUA, wire.CmdWrite, 105, 1, "!", 0, nil},
		{"read", 0, wire.CmdRead, 99, 8, "", 1, pack(uint64(99), "\x00hello!\x00")},
		{"read with DF", wire.FlagDF, wire.CmdRead, 100, 1, "", 1, pack(uint64(100), "h")},
		{"flush", 0, wire.CmdFlush, 0, 0, "", 0, nil},
		{"trim", wire.FlagFUA, wire.CmdTrim, 4096, 4096, "", 0, nil},
		{"cache", 0, wire.CmdCache, 4096, 4096, "", 0, nil},
		{"zeroes", 0, wire.CmdWriteZeroes, 100, 1, "", 0, nil},
		{"status", 0, wire.CmdBlockStatus, 0, 1 << 20, "", 6, pack(uint32(1), uint32(2), uint64(32<<10), uint64(0), uint64(1<<20-32<<10), uint64(3))},
		{"status with REQ_ONE", wire.FlagReqOne, wire.CmdBlockStatus, 0, 1 << 20, "", 6, pack(uint32(1), uint32(1), uint64(32<<10), uint64(0))},
		{"status of one context", payload, wire.CmdBlockStatus, 1 << 19, 12, string(pack(uint64(4096), uint32(1))), 6, pack(uint32(1), uint32(1), uint64(4096), uint64(3))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c.t = t
			c.extended(tt.flags, tt.cmd, 77, tt.offset, tt.length, tt.data)
			if got := c.mustExtended(tt.typ, 77, tt.offset); !bytes.Equal(got, tt.want) {
				t.Errorf("payload %x, not %x", got, tt.want)
			}
		})
	}
}

// Commands without a payload act on more than 32 bits can say.
func TestExtendedLengths(t *testing.T) {
	const size = 8 << 40
	s := newMemory(t, size)
	r := record(s)
	c := dial(t, listen(t, s))
	c.beginExtended()
	c.extended(0, wire.CmdBlockStatus, 1, 0, size)
	if got, want := c.mustExtended(6, 1, 0), pack(uint32(1), uint32(1), uint64(size), uint64(3)); !bytes.Equal(got, want) {
		t.Errorf("status %x, not %x", got, want)
	}
	c.extended(0, wire.CmdWriteZeroes, 2, 512, size-512)
	c.mustExtended(0, 2, 512)
	c.extended(0, wire.CmdTrim, 3, 1, 5<<32)
	c.mustExtended(0, 3, 1)
	c.extended(0, wire.CmdCache, 4, 0, size)
	c.mustExtended(0, 4, 0)
	want := []string{
		"extents 0+8796093022208", "zero 512+8796093021696 1", "trim 1+21474836480", "cache 0+8796093022208",
	}
	if got := r.taken(); !slices.Equal(got, want) {
		t.Errorf("the backend was asked %q, not %q", got, want)
	}
}

func TestExtendedRefusals(t *testing.T) {
	const (
		size    = 1 << 20
		payload = wire.FlagPayloadLen
	)
	ids := func(length uint64, ids ...uint32) []byte { return pack(length, ids) }
	for _, tt := range []struct {
		name   string
		flags  wire.CommandFlags
		cmd    wire.Command
		offset uint64
		length uint64
		data   []byte
		want   wire.Errno
		at     int64 // -1 if the error has no offset
	}{
		{"write without PAYLOAD_LEN", 0, wire.CmdWrite, 0, 8, nil, wire.EINVAL, -1},
		{"write of nothing", payload, wire.CmdWrite, 0, 0, nil, wire.EINVAL, -1},
		{"write beyond the end", payload, wire.CmdWrite, size - 4, 8, make([]byte, 8), wire.ENOSPC, size},
		{"read with a payload", payload, wire.CmdRead, 0, 1000, make([]byte, 1000), wire.EINVAL, -1},
		{"flush with a payload", payload, wire.CmdFlush, 0, 8, make([]byte, 8), wire.EINVAL, -1},
		{"trim with a payload", payload, wire.CmdTrim, 0, 8, make([]byte, 8), wire.EINVAL, -1},
		{"unknown command with a payload", payload, 4711, 0, 8, make([]byte, 8), wire.EINVAL, -1},
		{"the longest payload, unwanted", payload, wire.CmdCache, 0, wire.MaxBlock, make([]byte, wire.MaxBlock), wire.EINVAL, -1},
		{"read over the maximum", 0, wire.CmdRead, 0, wire.MaxBlock + 1, nil, wire.EOVERFLOW, -1},
		{"read of 2^64-1", 0, wire.CmdRead, 0, math.MaxUint64, nil, wire.EOVERFLOW, -1},
		{"trim of 2^64-1", 0, wire.CmdTrim, 0, math.MaxUint64, nil, wire.EINVAL, size},
		{"trim past 2^64", 0, wire.CmdTrim, math.MaxUint64 - 1, 1 << 40, nil, wire.EINVAL, -1},
		{"zeroes of 2^64-1", 0, wire.CmdWriteZeroes, 0, math.MaxUint64, nil, wire.ENOSPC, size},
		{"cache up to 2^64", 0, wire.CmdCache, 1 << 63, 1 << 63, nil, wire.EINVAL, -1},
		{"cache up to 2^64-1", 0, wire.CmdCache, 1 << 62, 3<<62 - 1, nil, wire.EINVAL, 1 << 62},
		{"status of 2^64-1", 0, wire.CmdBlockStatus, 0, math.MaxUint64, nil, wire.EINVAL, size},
		{"status of another context", payload, wire.CmdBlockStatus, 0, 12, ids(4096, 2), wire.EINVAL, -1},
		{"status of a context twice", payload, wire.CmdBlockStatus, 0, 16, ids(4096, 1, 1), wire.EINVAL, -1},
		{"status of many contexts", payload, wire.CmdBlockStatus, 0, 8 + 4096, ids(4096, make([]uint32, 1024)...), wire.EINVAL, -1},
		{"status of no context", payload, wire.CmdBlockStatus, 0, 8, ids(4096), wire.EINVAL, -1},
		{"status of half a length", payload, wire.CmdBlockStatus, 0, 7, make([]byte, 7), wire.EINVAL, -1},
		{"status with an empty payload", payload, wire.CmdBlockStatus, 0, 0, nil, wire.EINVAL, -1},
		{"status of a context beyond the end", payload, wire.CmdBlockStatus, size - 8, 12, ids(4096, 1), wire.EINVAL, size},
		{"status of a context, of nothing", payload, wire.CmdBlockStatus, 0, 12, ids(0, 1), wire.EINVAL, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newMemory(t, size)
			c := dial(t, listen(t, s))
			c.beginExtended()
			c.extended(tt.flags, tt.cmd, 7, tt.offset, tt.length, tt.data)
			typ := uint16(0x8002)
			if tt.at == -1 {
				typ = 0x8001
			}
			p := c.mustExtended(typ, 7, tt.offset)
			if e := wire.Errno(binary.BigEndian.Uint32(p)); e != tt.want || binary.BigEndian.Uint16(p[4:]) == 0 {
				t.Errorf("%v with the reason %q, not %v", e, p[6:], tt.want)
			}
			if tt.at != -1 && binary.BigEndian.Uint64(p[len(p)-8:]) != uint64(tt.at) {
				t.Errorf("error at %d, not at %d", binary.BigEndian.Uint64(p[len(p)-8:]), tt.at)
			}
			// The connection goes on, and nothing has happened.
			c.extended(0, wire.CmdRead, 8, 0, 8)
			if p := c.mustExtended(1, 8, 0); !bytes.Equal(p, make([]byte, 16)) {
				t.Errorf("the volume was changed: %x", p)
			}
		})
	}
}

// Requests behind which the connection can't be understood any more, or isn't
// worth it.
func TestTransmissionHangsUp(t *testing.T) {
	request := func(length uint32) []byte {
		return pack(uint32(0x25609513), uint16(0), uint16(wire.CmdWrite), uint64(1), uint64(0), length)
	}
	extended := func(flags wire.CommandFlags, cmd wire.Command, length uint64) []byte {
		return pack(uint32(0x21e41c71), uint16(flags), uint16(cmd), uint64(1), uint64(0), length)
	}
	for _, tt := range []struct {
		name     string
		extended bool
		bytes    []byte
	}{
		{"garbage", false, make([]byte, 28)},
		{"extended request, not negotiated", false, extended(0, wire.CmdRead, 4)},
		{"write of 64 MiB and a byte", false, request(64<<20 + 1)},
		{"write of 4 GiB", false, request(math.MaxUint32)},
		{"garbage for extended headers", true, make([]byte, 28)},
		{"short request, extended ones negotiated", true, request(4)},
		{"write over the maximum", true, extended(wire.FlagPayloadLen, wire.CmdWrite, wire.MaxBlock+1)},
		{"write of 2^64-1", true, extended(wire.FlagPayloadLen, wire.CmdWrite, math.MaxUint64)},
		{"flush with a payload of 2^63", true, extended(wire.FlagPayloadLen, wire.CmdFlush, 1<<63)},
		{"status with a payload of 2^40", true, extended(wire.FlagPayloadLen, wire.CmdBlockStatus, 1<<40)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 1<<20)
				c := connect(t, s)
				if tt.extended {
					c.beginExtended()
				} else {
					c.begin(true)
				}
				go c.Write(tt.bytes) // all of it, or what is wanted of it
				c.eof()
				synctest.Wait()
				if n := len(s.connections()); n != 0 {
					t.Errorf("%d connections left", n)
				}
			})
		})
	}
}

func TestExtendedBeforeStructured(t *testing.T) {
	c := negotiating(t)
	for range 2 {
		c.extend()
	}
	c.option(wire.OptStructuredReply, "x")
	c.expect(wire.OptStructuredReply, wire.RepErrInvalid)
	c.option(wire.OptStructuredReply)
	c.expect(wire.OptStructuredReply, wire.RepErrExtHeaderReqd)
	c.option(wire.OptGo, str("disk"), uint16(0))
	c.expect(wire.OptGo, wire.RepAck)
	c.extended(0, wire.CmdRead, 1, 0, 4)
	c.mustExtended(1, 1, 0)
}

// Which transmission flags depend on what was negotiated.
func TestNegotiatedFlags(t *testing.T) {
	for _, tt := range []struct {
		name string
		say  func(*rawClient)
		want uint16 // of DF and BLOCK_STATUS_PAYLOAD
	}{
		{"nothing", func(*rawClient) {}, 0},
		{"structured", func(c *rawClient) { c.option(wire.OptStructuredReply); c.replies(wire.OptStructuredReply) }, 1 << 7},
		{"extended", func(c *rawClient) { c.extend() }, 1 << 7},
		{"extended, with a context", func(c *rawClient) {
			c.extend()
			c.option(wire.OptSetMetaContext, str("disk"), uint32(1), str("base:allocation"))
			c.replies(wire.OptSetMetaContext)
		}, 1<<12 | 1<<7},
		{"structured, with a context", func(c *rawClient) {
			c.option(wire.OptStructuredReply)
			c.replies(wire.OptStructuredReply)
			c.option(wire.OptSetMetaContext, str("disk"), uint32(1), str("base:allocation"))
			c.replies(wire.OptSetMetaContext)
		}, 1 << 7},
		{"extended, with a context of another export", func(c *rawClient) {
			c.extend()
			c.option(wire.OptSetMetaContext, str("scratch"), uint32(1), str("base:allocation"))
			c.replies(wire.OptSetMetaContext)
		}, 1 << 7},
	} {
		for _, opt := range []wire.Option{wire.OptInfo, wire.OptGo} {
			c := negotiating(t)
			tt.say(c)
			c.option(opt, str("disk"), uint16(0))
			_, p := c.reply(opt)
			if got := binary.BigEndian.Uint16(p[10:]) & (1<<12 | 1<<7); got != tt.want {
				t.Errorf("%s: %v tells of the flags %#x, not %#x", tt.name, opt, got, tt.want)
			}
			c.expect(opt, wire.RepAck)
		}
	}
}
