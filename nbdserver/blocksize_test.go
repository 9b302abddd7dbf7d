package nbdserver

import (
	"bytes"
	"slices"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// coarse is a server of one volume that has blocks of 4 KiB, larger than what it
// would prefer otherwise.
func coarse(t *testing.T) (*Server, *recorder) {
	s := newMemory(t, 1<<20)
	r := record(s)
	r.info.MinimumBlockSize, r.info.PreferredBlockSize = 4096, 512
	return s, r
}

func TestBlockSizeRequired(t *testing.T) {
	s, _ := coarse(t)
	c := connect(t, s)
	defer c.Close()
	c.greet(3)
	blockSize := pack(uint16(3), uint32(4096), uint32(4096), uint32(32<<20))
	for _, opt := range []wire.Option{wire.OptInfo, wire.OptGo} {
		c.option(opt, str("disk"), uint16(2), uint16(1), uint16(2))
		// The sizes are told with the refusal: there is no need to ask again.
		if typ, p := c.reply(opt); typ != wire.RepInfo || !bytes.Equal(p, blockSize) {
			t.Errorf("%v: reply %#x %x", opt, uint32(typ), p)
		}
		if typ, why := c.reply(opt); typ != wire.RepErrBlockSizeReqd || len(why) == 0 {
			t.Errorf("%v: reply %#x %q", opt, uint32(typ), why)
		}
	}
	for _, opt := range []wire.Option{wire.OptInfo, wire.OptGo} {
		c.option(opt, str("disk"), uint16(1), uint16(3))
		if types, _ := c.replies(opt); !slices.Equal(types, []wire.OptionReply{wire.RepInfo, wire.RepInfo, wire.RepAck}) {
			t.Errorf("%v: replies %#x", opt, types)
		}
	}
}

// Old clients know nothing of block sizes. They may try.
func TestMinimumBlockSize(t *testing.T) {
	for _, old := range []bool{true, false} {
		s, r := coarse(t)
		c := dial(t, listen(t, s))
		c.greet(3)
		if old {
			c.option(wire.OptExportName, "disk")
			c.get(10)
		} else {
			c.option(wire.OptGo, str("disk"), uint16(1), uint16(3))
			c.expect(wire.OptGo, wire.RepAck)
		}
		r.taken()
		for _, cmd := range []wire.Command{wire.CmdRead, wire.CmdWrite, wire.CmdTrim, wire.CmdCache, wire.CmdWriteZeroes} {
			for _, at := range [][2]uint64{{512, 4096}, {4096, 4097}, {0, 1}} {
				c.request(0, cmd, 1, at[0], uint32(at[1]))
				if cmd == wire.CmdWrite {
					c.put(bytes.Repeat([]byte{1}, int(at[1])))
				}
				c.must(1, wire.EINVAL)
			}
		}
		if calls := r.taken(); len(calls) != 0 {
			t.Errorf("the backend was asked %q", calls)
		}
		if data := readBack(t, s); data != [8]byte{} {
			t.Errorf("the volume was changed: %x", data)
		}
		c.request(0, wire.CmdWrite, 1, 4096, 8192, make([]byte, 8192))
		c.must(1, 0)
	}
}

// Extents are whole blocks, whatever the Backend says.
func TestBlockStatusInBlocks(t *testing.T) {
	s, r := coarse(t)
	r.extents = func(uint64, uint64, int) ([]backend.Extent, error) {
		return []backend.Extent{{Length: 5000, Hole: true, Zero: true}, {Length: 100}, {Length: 1<<20 - 5100, Zero: true}}, nil
	}
	c := dial(t, listen(t, s))
	c.greet(3)
	c.option(wire.OptStructuredReply)
	c.replies(wire.OptStructuredReply)
	c.option(wire.OptSetMetaContext, str(""), uint32(1), str("base:allocation"))
	c.replies(wire.OptSetMetaContext)
	c.option(wire.OptGo, str(""), uint16(1), uint16(3))
	c.expect(wire.OptGo, wire.RepAck)
	c.request(0, wire.CmdBlockStatus, 1, 0, 1<<20)
	if _, _, _, p := c.chunk(); !bytes.Equal(p, pack(uint32(1), []uint32{4096, 3, 4096, 0, 1<<20 - 8192, 2})) {
		t.Errorf("status %x", p)
	}
	c.request(0, wire.CmdBlockStatus, 1, 0, 1000)
	c.mustFail(1, wire.EINVAL)
}
