package nbdserver

import (
	"io"
	"math"
	"net"
	"runtime"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// What a peer claims is not allocated before it has come, or was checked. An
// option costs up to 64 KiB.
func TestLiesAllocateNothing(t *testing.T) {
	const limit = 128 << 10
	header := func(o wire.Option, length uint32) []byte { return pack("IHAVEOPT", uint32(o), length) }
	option := func(o wire.Option, payload ...any) []byte {
		p := pack(payload...)
		return pack(header(o, uint32(len(p))), p)
	}
	request := func(c wire.Command, offset uint64, length uint32) []byte {
		return pack(uint32(0x25609513), uint16(0), uint16(c), uint64(1), offset, length)
	}
	structured := option(wire.OptStructuredReply)
	open := pack(structured, option(wire.OptSetMetaContext, str(""), uint32(1), str("base:allocation")), option(wire.OptGo, str(""), uint16(0)))
	tests := []struct {
		name  string
		bytes []byte // behind the client's flags
	}{
		{"list of 4 GiB", header(wire.OptList, math.MaxUint32)},
		{"name of 4 GiB, old way", header(wire.OptExportName, math.MaxUint32)},
		{"unknown option of 4 GiB", header(4711, math.MaxUint32)},
		{"info of 64 KiB that don't come", header(wire.OptInfo, 64<<10)},
		{"info of 1 MiB", pack(header(wire.OptInfo, 1<<20), make([]byte, 1<<20))},
		{"name of 4 GiB", option(wire.OptInfo, uint32(math.MaxUint32), "disk", uint16(0))},
		{"65,535 items", option(wire.OptInfo, str("disk"), uint16(math.MaxUint16))},
		{"2^32-1 queries", pack(structured, option(wire.OptSetMetaContext, str("disk"), uint32(math.MaxUint32), str("base:allocation")))},
		{"query of 4 GiB", pack(structured, option(wire.OptSetMetaContext, str("disk"), uint32(1), uint32(math.MaxUint32), "base:"))},
		{"read of 4 GiB", pack(open, request(wire.CmdRead, 0, math.MaxUint32))},
		{"read of 32 MiB beyond the end", pack(open, request(wire.CmdRead, 1<<20, 32<<20))},
		{"read of 32 MiB, offset+length past 2^64", pack(open, request(wire.CmdRead, math.MaxUint64, 32<<20))},
		{"write of 4 GiB", pack(open, request(wire.CmdWrite, 0, math.MaxUint32))},
		{"write of 32 MiB beyond the end", pack(open, request(wire.CmdWrite, 1<<20, 32<<20))},
		{"trim of 4 GiB", pack(open, request(wire.CmdTrim, 0, math.MaxUint32))},
		{"zeroes of 4 GiB", pack(open, request(wire.CmdWriteZeroes, 0, math.MaxUint32))},
		{"block status of 4 GiB", pack(open, request(wire.CmdBlockStatus, 0, math.MaxUint32))},
		{"cache of 4 GiB", pack(open, request(wire.CmdCache, 0, math.MaxUint32))},
		{"unknown command of 4 GiB", pack(open, request(4711, 0, math.MaxUint32))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newMemory(t, 1<<20)
			c := dial(t, listen(t, s))
			c.get(18)
			all := pack(uint32(3), tt.bytes)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			go func() {
				_, _ = c.Write(all) // it may be closed in the middle
				_ = c.Conn.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 4096))
			s.handlers.Wait()
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > limit {
				t.Errorf("%d bytes have made the server allocate %d", len(all), n)
			}
		})
	}
}
