package nbdserver

import (
	"bytes"
	"math"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

func TestRefusedRequests(t *testing.T) {
	const size = 1 << 20
	tests := []struct {
		name     string
		readOnly bool
		flags    wire.CommandFlags
		cmd      wire.Command
		offset   uint64
		length   uint32
		want     wire.Errno
	}{
		{"read beyond the end", false, 0, wire.CmdRead, size - 4, 8, wire.EINVAL},
		{"read from the end", false, 0, wire.CmdRead, size, 1, wire.EINVAL},
		{"read, offset+length past 2^64", false, 0, wire.CmdRead, math.MaxUint64 - 2, 8, wire.EINVAL},
		{"read of nothing", false, 0, wire.CmdRead, 0, 0, wire.EINVAL},
		{"read with an unknown flag", false, 1 << 9, wire.CmdRead, 0, 4, wire.EINVAL},
		{"read with NO_HOLE", false, wire.FlagNoHole, wire.CmdRead, 0, 4, wire.EINVAL},
		{"write beyond the end", false, 0, wire.CmdWrite, size - 4, 8, wire.ENOSPC},
		{"write, offset+length past 2^64", false, 0, wire.CmdWrite, math.MaxUint64, 8, wire.ENOSPC},
		{"write over the maximum", false, 0, wire.CmdWrite, 0, wire.MaxBlock + 1, wire.EINVAL},
		{"write, read-only", true, 0, wire.CmdWrite, 0, 8, wire.EPERM},
		{"write beyond the end, read-only", true, 0, wire.CmdWrite, size, 8, wire.EPERM},
		{"trim, read-only", true, 0, wire.CmdTrim, 0, 8, wire.EPERM},
		{"trim beyond the end", false, 0, wire.CmdTrim, size, 8, wire.EINVAL},
		{"zero, read-only", true, 0, wire.CmdWriteZeroes, 0, 8, wire.EPERM},
		{"zero beyond the end", false, 0, wire.CmdWriteZeroes, 0, size + 1, wire.ENOSPC},
		{"flush with a length", false, 0, wire.CmdFlush, 0, 8, wire.EINVAL},
		{"cache beyond the end", false, 0, wire.CmdCache, size, 8, wire.EINVAL},
		{"cache with a flag", false, wire.FlagReqOne, wire.CmdCache, 0, 8, wire.EINVAL},
		{"read with PAYLOAD_LEN", false, wire.FlagPayloadLen, wire.CmdRead, 0, 8, wire.EINVAL},
		{"write with PAYLOAD_LEN", false, wire.FlagPayloadLen, wire.CmdWrite, 0, 8, wire.EINVAL},
		{"unknown command", false, 0, 4711, 0, 8, wire.EINVAL},
		{"block status beyond the end", false, 0, wire.CmdBlockStatus, 0, math.MaxUint32, wire.EINVAL},
		{"block status of nothing", false, 0, wire.CmdBlockStatus, 0, 0, wire.EINVAL},
	}
	for _, tt := range tests {
		for _, structured := range []bool{false, true} {
			t.Run(tt.name, func(t *testing.T) {
				s := newMemory(t, size)
				s.Exports[0].ReadOnly = tt.readOnly
				c := dial(t, listen(t, s))
				c.begin(structured)
				c.request(tt.flags, tt.cmd, 7, tt.offset, tt.length)
				if tt.cmd == wire.CmdWrite {
					c.put(make([]byte, tt.length)) // comes, wanted or not
				}
				if structured {
					if why := c.mustFail(7, tt.want); why == "" {
						t.Error("no reason is given")
					}
				} else {
					c.must(7, tt.want)
				}
				// The connection goes on.
				c.request(0, wire.CmdFlush, 8, 0, 0)
				if structured {
					c.chunk()
				} else {
					c.must(8, 0)
				}
				if data := readBack(t, s); data != [8]byte{} {
					t.Errorf("the volume was changed: %x", data)
				}
			})
		}
	}
}

func readBack(t *testing.T, s *Server) (b [8]byte) {
	t.Helper()
	if err := s.Exports[0].Backend.ReadAt(t.Context(), b[:], 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDFNeedsStructuredReplies(t *testing.T) {
	c := dial(t, listen(t, newMemory(t, 1<<20)))
	c.begin(false)
	c.request(wire.FlagDF, wire.CmdRead, 1, 0, 4)
	c.must(1, wire.EINVAL)
}

func TestStructuredRead(t *testing.T) {
	c := dial(t, listen(t, newMemory(t, 1<<20)))
	c.begin(true)
	c.request(wire.FlagFUA, wire.CmdWrite, 1, 100, 5, "hello")
	if flags, typ, cookie, p := c.chunk(); flags != 1 || typ != 0 || cookie != 1 || len(p) != 0 {
		t.Errorf("write was answered with flags %d type %d request %d %x", flags, typ, cookie, p)
	}
	c.request(wire.FlagDF, wire.CmdRead, 2, 99, 7)
	flags, typ, cookie, p := c.chunk()
	if want := pack(uint64(99), "\x00hello\x00"); flags != 1 || typ != 1 || cookie != 2 || !bytes.Equal(p, want) {
		t.Errorf("read was answered with flags %d type %d request %d %q", flags, typ, cookie, p)
	}
}

func TestErrnoOf(t *testing.T) {
	for err, want := range map[error]wire.Errno{
		syscall.ENOSPC:             wire.ENOSPC,
		syscall.EDQUOT:             wire.ENOSPC,
		syscall.EFBIG:              wire.ENOSPC,
		syscall.EIO:                wire.EIO,
		syscall.EROFS:              wire.EPERM,
		syscall.EOPNOTSUPP:         wire.EINVAL,
		backend.ErrNotFast:         wire.ENOTSUP,
		syscall.ENXIO:              wire.EIO,
		backend.ErrReadOnly:        wire.EPERM,
		backend.ErrShrunk:          wire.EIO,
		&testError{syscall.ENOSPC}: wire.ENOSPC,
	} {
		if got := errnoOf(err); got != want {
			t.Errorf("%v is %v, not %v", err, got, want)
		}
	}
}

// Clients that break off leave the others, and the memory, as they were.
func TestClientsVanish(t *testing.T) {
	s := newMemory(t, 64<<20)
	addr := listen(t, s)
	steady := dial(t, addr)
	steady.begin(false)
	before := heap()
	for i := range 300 {
		c := dial(t, addr)
		c.begin(i%2 == 0)
		switch i % 4 {
		case 0: // in mid-write
			c.request(0, wire.CmdWrite, 1, 0, 1<<20, "only a little")
		case 1: // in mid-request
			c.put(uint32(0x25609513), uint16(0))
		case 2: // without reading the reply
			c.request(0, wire.CmdRead, 1, 0, 8<<20)
		case 3: // after nonsense
			c.put(make([]byte, wire.RequestSize))
			c.eof()
		}
		c.Close()
		steady.request(0, wire.CmdRead, 1, 0, 4)
		steady.must(1, 0)
		steady.get(4)
	}
	if data := readBack(t, s); data != [8]byte{} {
		t.Errorf("half a write was applied: %q", data)
	}
	steady.request(0, wire.CmdDisc, 2, 0, 0)
	steady.eof()
	s.handlers.Wait()
	if after := heap(); after > before+32<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // pools give up what they hold on the second one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// However much a client asks for at once, the server holds no more for it than
// its share; the rest waits in the client's socket.
func TestMemoryOfOneClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 64<<20)
		g := gate(s)
		g.readGate = make(chan struct{})
		c := connect(t, s)
		c.begin(false)
		go func() {
			for range 1000 {
				if _, err := c.Write(pack(uint32(0x25609513), uint16(0), uint16(wire.CmdRead), uint64(1), uint64(0), uint32(16<<20))); err != nil {
					return
				}
			}
		}()
		synctest.Wait()
		if n := s.inFlight.Load(); n != DefaultMaxConnectionMemory/(16<<20) {
			t.Errorf("%d requests of 16 MiB in flight", n)
		}
		c.Close()
		close(g.readGate)
		synctest.Wait()
		if n := s.inFlight.Load(); n != 0 {
			t.Errorf("%d requests left in flight", n)
		}
	})
}
