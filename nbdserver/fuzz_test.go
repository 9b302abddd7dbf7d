package nbdserver

import (
	"io"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// seedSessions adds sessions of all three forms of reply.
func seedSessions(f *testing.F) {
	option := func(o wire.Option, payload ...any) []byte {
		p := pack(payload...)
		return pack("IHAVEOPT", uint32(o), uint32(len(p)), p)
	}
	request := func(flags wire.CommandFlags, c wire.Command, offset uint64, length uint32, data string) []byte {
		return pack(uint32(0x25609513), uint16(flags), uint16(c), uint64(1), offset, length, data)
	}
	extended := func(flags wire.CommandFlags, c wire.Command, offset, length uint64, data ...any) []byte {
		return pack(uint32(0x21e41c71), uint16(flags), uint16(c), uint64(1), offset, length, pack(data...))
	}
	context := option(wire.OptSetMetaContext, str(""), uint32(1), str("base:allocation"))
	enter := option(wire.OptGo, str(""), uint16(1), uint16(3))
	open := pack(uint32(3), option(wire.OptStructuredReply), context, enter)
	extend := pack(uint32(3), option(wire.OptExtendedHeaders), context, enter)
	all := pack(request(0, wire.CmdRead, 0, 16, ""), request(wire.FlagFUA, wire.CmdWrite, 8, 4, "data"),
		request(0, wire.CmdTrim, 0, 4096, ""), request(0, wire.CmdWriteZeroes, 0, 4096, ""), request(0, wire.CmdCache, 0, 4096, ""),
		request(wire.FlagReqOne, wire.CmdBlockStatus, 0, 4096, ""), request(0, wire.CmdBlockStatus, 0, 1<<20, ""), request(0, wire.CmdFlush, 0, 0, ""),
		request(0, wire.CmdRead, 0, 1<<20, ""), request(wire.FlagDF, wire.CmdRead, 1, 1<<19, ""), request(0, wire.CmdRead, 1<<20-4, 8, ""),
		request(0, wire.CmdDisc, 0, 0, ""))
	f.Add(pack(uint32(3), option(wire.OptList), option(wire.OptAbort)))
	f.Add(pack(uint32(3), option(wire.OptInfo, str("disk"), uint16(3), uint16(1), uint16(2), uint16(3)), option(wire.OptListMetaContext, str(""), uint32(0)), option(4711)))
	f.Add(pack(uint32(0), option(wire.OptExportName, "disk"), all))
	f.Add(pack(uint32(3), enter, all))
	f.Add(pack(open, all))
	f.Add(pack(open, request(0, wire.CmdRead, 1<<63, 1<<31, "")))
	f.Add(pack(extend, extended(0, wire.CmdRead, 0, 1<<20), extended(wire.FlagPayloadLen, wire.CmdWrite, 8, 4, "data"),
		extended(0, wire.CmdBlockStatus, 0, 1<<20), extended(wire.FlagReqOne, wire.CmdBlockStatus, 0, 1<<20),
		extended(wire.FlagPayloadLen, wire.CmdBlockStatus, 0, 12, uint64(1<<19), uint32(1)),
		extended(wire.FlagPayloadLen, wire.CmdTrim, 0, 4, "what"), extended(0, wire.CmdWriteZeroes, 0, 1<<62),
		extended(0, wire.CmdCache, 0, 1<<20), extended(0, wire.CmdFlush, 0, 0), extended(0, wire.CmdDisc, 0, 0)))
	f.Add(pack(extend, request(0, wire.CmdRead, 0, 16, "")))
}

// FuzzSession plays a client that sends any bytes at all from the greeting on.
// The server must neither panic nor hang, end cleanly once the client is gone,
// and take no more memory than what has come is worth.
func FuzzSession(f *testing.F) {
	seedSessions(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			s := newMemory(t, 1<<20)
			s.DrainPolicy = &DrainPolicy{Grace: time.Second, Timeout: 2 * time.Second}
			spent := spending(t, s)
			c := connect(t, s)
			go io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 4096))
			go func() {
				c.Write(b)
				// All that a server can be waiting for now is more bytes, or the
				// end of its time-out.
				time.Sleep(time.Minute)
				c.Close()
			}()
			time.Sleep(2 * time.Minute)
			nothingLeft(t, s)
			spent(len(b))
			s.BeginDrain("test")
			<-s.Done()
			if n := s.panics.Load(); n != 0 {
				t.Errorf("%d panics", n)
			}
		})
	})
}

// spending is called before the first connection of a server with a volume of 1
// MiB. It returns what checks how much all connections have allocated, given the
// bytes that came: they may be believed, but nothing that they claim.
func spending(t *testing.T, s *Server) func(came int) {
	var conns []*Conn
	s.ConnState = func(c *Conn, state ConnState) {
		if state == StateNegotiating {
			conns = append(conns, c)
		}
	}
	s.init()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	return func(came int) {
		t.Helper()
		var after runtime.MemStats
		runtime.ReadMemStats(&after)
		// A connection, and the options that it may send; each of their bytes
		// can be a part of a list. A request can be for the whole volume.
		limit := uint64(16 * came)
		for _, c := range conns {
			limit += 4<<20 + c.requests.Load()*(1<<20+64<<10)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > limit {
			t.Errorf("%d bytes have made the server allocate %d, more than %d", came, n, limit)
		}
	}
}
