package nbdserver

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// One client over the loopback, one request at a time: what a request costs. The
// client allocates nothing, so that the allocations are the server's.
func BenchmarkRequest(b *testing.B) {
	for _, structured := range []bool{false, true} {
		for _, cmd := range []wire.Command{wire.CmdRead, wire.CmdWrite} {
			for _, size := range []int{4 << 10, 256 << 10} {
				b.Run(fmt.Sprintf("%v/%dKiB/structured=%v", cmd, size>>10, structured), func(b *testing.B) {
					benchmarkRequest(b, cmd, size, structured)
				})
			}
		}
	}
}

func benchmarkRequest(b *testing.B, cmd wire.Command, size int, structured bool) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := newMemory(b, 1<<20)
	go s.Serve(l)
	defer func() { s.Close(); <-s.Done() }()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	c := &rawClient{&testing.T{}, nc}
	c.begin(structured)

	header := 16
	if structured {
		header = 20
	}
	req, answer := make([]byte, 28), make([]byte, header)
	binary.BigEndian.PutUint32(req, 0x25609513)
	binary.BigEndian.PutUint16(req[6:], uint16(cmd))
	binary.BigEndian.PutUint32(req[24:], uint32(size))
	data := make([]byte, size)
	for i := range data {
		data[i] = 1 // no hole
	}
	if cmd == wire.CmdWrite {
		req = append(req, data...)
	} else {
		if err := s.Exports[0].Backend.WriteAt(b.Context(), data, 0); err != nil {
			b.Fatal(err)
		}
		answer = make([]byte, header+size)
		if structured {
			answer = make([]byte, header+8+size)
		}
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := nc.Write(req); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(nc, answer); err != nil {
			b.Fatal(err)
		}
	}
}
