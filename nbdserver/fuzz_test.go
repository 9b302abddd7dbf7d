package nbdserver

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// FuzzSession plays a client that sends any bytes at all from the greeting on.
// The server must neither panic nor hang, and end cleanly once the client is
// gone.
func FuzzSession(f *testing.F) {
	option := func(o wire.Option, payload ...any) []byte {
		p := pack(payload...)
		return pack("IHAVEOPT", uint32(o), uint32(len(p)), p)
	}
	request := func(flags wire.CommandFlags, c wire.Command, offset uint64, length uint32, data string) []byte {
		return pack(uint32(0x25609513), uint16(flags), uint16(c), uint64(1), offset, length, data)
	}
	open := pack(uint32(3), option(wire.OptStructuredReply),
		option(wire.OptSetMetaContext, str(""), uint32(1), str("base:allocation")),
		option(wire.OptGo, str(""), uint16(0)))
	f.Add(pack(uint32(3), option(wire.OptList), option(wire.OptAbort)))
	f.Add(pack(uint32(1), option(wire.OptExportName, "disk")))
	f.Add(pack(open, request(0, wire.CmdRead, 0, 16, ""), request(wire.FlagFUA, wire.CmdWrite, 8, 4, "data"),
		request(0, wire.CmdTrim, 0, 4096, ""), request(0, wire.CmdWriteZeroes, 0, 4096, ""),
		request(wire.FlagReqOne, wire.CmdBlockStatus, 0, 4096, ""), request(0, wire.CmdFlush, 0, 0, ""),
		request(0, wire.CmdDisc, 0, 0, "")))
	f.Add(pack(open, request(0, wire.CmdRead, 1<<63, 1<<31, "")))
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			s := newMemory(t, 1<<20)
			s.DrainPolicy = &DrainPolicy{Grace: time.Second, Timeout: 2 * time.Second}
			c := connect(t, s)
			go io.Copy(io.Discard, c)
			go func() {
				c.Write(b)
				// All that a server can be waiting for now is more bytes, or the
				// end of its time-out.
				time.Sleep(time.Minute)
				c.Close()
			}()
			time.Sleep(2 * time.Minute)
			if n := len(s.connections()); n != 0 {
				t.Errorf("%d connections left", n)
			}
			s.BeginDrain("test")
			<-s.Done()
			if n := s.panics.Load(); n != 0 {
				t.Errorf("%d panics", n)
			}
		})
	})
}
