package nbdserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// What is too long for one answer has an error of its own where there are
// answers in parts.
func TestReadOverTheMaximum(t *testing.T) {
	for _, structured := range []bool{false, true} {
		c := dial(t, listen(t, newMemory(t, 64<<20)))
		c.begin(structured)
		if structured {
			for _, flags := range []wire.CommandFlags{0, wire.FlagDF} {
				c.request(flags, wire.CmdRead, 1, 0, wire.MaxBlock+1)
				c.mustFail(1, wire.EOVERFLOW)
			}
			c.request(wire.FlagDF, wire.CmdRead, 2, 0, wire.MaxBlock)
			if _, typ, _, p := c.chunk(); typ != 1 || len(p) != wire.MaxBlock+8 {
				t.Errorf("the longest read with DF: type %d, %d bytes", typ, len(p))
			}
		} else {
			c.request(0, wire.CmdRead, 1, 0, wire.MaxBlock+1)
			c.must(1, wire.EINVAL)
			c.request(0, wire.CmdRead, 2, 0, wire.MaxBlock)
			c.must(2, 0)
			c.get(wire.MaxBlock)
		}
	}
}

// The first byte that isn't there is named.
func TestErrorOffset(t *testing.T) {
	c := dial(t, listen(t, newMemory(t, 1<<20)))
	c.begin(true)
	for _, tt := range []struct {
		cmd        wire.Command
		offset, at uint64
		e          wire.Errno
	}{
		{wire.CmdRead, 1<<20 - 4, 1 << 20, wire.EINVAL},
		{wire.CmdRead, 1 << 40, 1 << 40, wire.EINVAL},
		{wire.CmdTrim, 1<<20 - 1, 1 << 20, wire.EINVAL},
		{wire.CmdCache, 1<<64 - 9, 1<<64 - 9, wire.EINVAL},
		{wire.CmdWriteZeroes, 1<<20 - 7, 1 << 20, wire.ENOSPC},
		{wire.CmdBlockStatus, 1 << 20, 1 << 20, wire.EINVAL},
	} {
		c.request(0, tt.cmd, 1, tt.offset, 8)
		flags, typ, _, p := c.chunk()
		if flags != 1 || typ != 0x8002 || !bytes.Equal(p[:4], pack(tt.e)) || !bytes.Equal(p[len(p)-8:], pack(tt.at)) {
			t.Errorf("%v at %d: chunk type %#x %q, not %v at %d", tt.cmd, tt.offset, typ, p, tt.e, tt.at)
		}
	}
}

// parts sends a read and returns the parts in which it is answered, in KiB, and
// their bytes.
func (c *rawClient) parts(flags wire.CommandFlags, offset, length uint64) (parts []string, data []byte) {
	c.t.Helper()
	c.request(flags, wire.CmdRead, 1, offset, uint32(length))
	a := &asked{flags: flags, cmd: wire.CmdRead, offset: offset, length: length}
	p := replyReader{c, structuredReplies, nil, map[uint64]*asked{1: a}}
	for {
		kind, holes := "data", a.holes
		done, err := p.next()
		if err != nil || a.errno != 0 {
			c.t.Fatalf("%v, %v %s", err, a.errno, a.why)
		}
		if a.holes > holes {
			kind = "hole"
		}
		last := a.content[len(a.content)-1]
		parts = append(parts, fmt.Sprintf("%s %d+%d", kind, last[0]>>10, (last[1]-last[0])>>10))
		if done != nil {
			return parts, a.data
		}
	}
}

func TestReadHoles(t *testing.T) {
	const k = 1 << 10
	s := newMemory(t, 64<<20)
	r := record(s)
	content := make([]byte, 64<<20)
	fill := func(off, n int) { // in KiB
		for i := off * k; i < (off+n)*k; i++ {
			content[i] = byte(i>>10 + 1)
		}
		if err := r.WriteAt(t.Context(), content[off*k:(off+n)*k], uint64(off*k)); err != nil {
			t.Fatal(err)
		}
	}
	// The memory's pages have 32 KiB.
	fill(0, 64)
	fill(128, 32)
	fill(192, 32)
	for i := range maxParts {
		fill(1024+64*i, 32)
	}
	c := dial(t, listen(t, s))
	c.begin(true)
	// What was sent once lies in the buffers that are used again.
	for _, n := range []uint64{1 << 16, 1 << 17, 1 << 18, 1 << 19} {
		c.parts(wire.FlagDF, 0, n)
	}
	for _, tt := range []struct {
		name           string
		flags          wire.CommandFlags
		offset, length uint64 // in KiB
		want           []string
		calls          []string
	}{
		{"data", 0, 0, 64, []string{"data 0+64"}, []string{"extents 0+65536", "read 0+65536"}},
		{"a hole", 0, 32768, 64, []string{"hole 32768+64"}, []string{"extents 33554432+65536"}},
		{"hole at the end", 0, 0, 128, []string{"data 0+64", "hole 64+64"}, []string{"extents 0+131072", "read 0+65536"}},
		{"hole at the start", 0, 64, 96, []string{"hole 64+64", "data 128+32"}, []string{"extents 65536+98304", "read 131072+32768"}},
		{"hole in the middle", 0, 32, 128, []string{"data 32+32", "hole 64+64", "data 128+32"}, []string{"extents 32768+131072", "read 32768+32768", "read 131072+32768"}},
		{"two holes", 0, 0, 224, []string{"data 0+64", "hole 64+64", "data 128+32", "hole 160+32", "data 192+32"}, nil},
		{"hole that doesn't pay", 0, 0, 64 + 15, []string{"data 0+79"}, []string{"extents 0+80896", "read 0+80896"}},
		{"hole that pays", 0, 0, 64 + 16, []string{"data 0+64", "hole 64+16"}, nil},
		{"holes with DF", wire.FlagDF, 0, 256, []string{"data 0+256"}, []string{"read 0+262144"}},
		{"short", 0, 64, 63, []string{"data 64+63"}, []string{"read 65536+64512"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c.t = t
			r.taken()
			parts, data := c.parts(tt.flags, tt.offset*k, tt.length*k)
			if !slices.Equal(parts, tt.want) {
				t.Errorf("sent as %q, not %q", parts, tt.want)
			}
			if calls := r.taken(); tt.calls != nil && !slices.Equal(calls, tt.calls) {
				t.Errorf("the backend was asked %q, not %q", calls, tt.calls)
			}
			if !bytes.Equal(data, content[tt.offset*k:][:tt.length*k]) {
				t.Error("the data is wrong")
			}
		})
	}
	t.Run("many holes", func(t *testing.T) {
		c.t = t
		parts, data := c.parts(0, 1<<20, 8<<20)
		// What lies behind the last extent that was asked for is one part.
		if n := len(parts); n != maxParts+1 || parts[n-1] != "data 3072+6144" {
			t.Errorf("%d parts, the last is %q", n, parts[n-1])
		}
		if !bytes.Equal(data, content[1<<20:][:8<<20]) {
			t.Error("the data is wrong")
		}
	})
	t.Run("unaligned", func(t *testing.T) {
		c.t = t
		for range 100 {
			offset := rand.N[uint64](4 << 20)
			length := rand.N[uint64](1<<20) + 1
			if _, data := c.parts(0, offset, length); !bytes.Equal(data, content[offset:][:length]) {
				t.Fatalf("%d bytes from %d on are wrong", length, offset)
			}
		}
	})
}

// Only what is said to be zero is left out; what isn't known is read.
func TestReadTrustsZeroOnly(t *testing.T) {
	for _, tt := range []struct {
		name string
		says func(off, length uint64, max int) ([]backend.Extent, error)
		want []string
	}{
		{"an error", func(_, n uint64, _ int) ([]backend.Extent, error) {
			return []backend.Extent{{Length: n, Hole: true, Zero: true}}, errors.New("or so")
		}, []string{"data 0+1024"}},
		{"holes that hold who knows what", func(_, n uint64, _ int) ([]backend.Extent, error) {
			return []backend.Extent{{Length: n, Hole: true}}, nil
		}, []string{"data 0+1024"}},
		{"zeroes that are no hole", func(_, n uint64, _ int) ([]backend.Extent, error) {
			return []backend.Extent{{Length: n, Zero: true}}, nil
		}, []string{"hole 0+1024"}},
		{"less than all", func(uint64, uint64, int) ([]backend.Extent, error) {
			return []backend.Extent{{Length: 512 << 10, Hole: true, Zero: true}}, nil
		}, []string{"hole 0+512", "data 512+512"}},
		{"more than all", func(_, n uint64, _ int) ([]backend.Extent, error) {
			return []backend.Extent{{Length: n / 2}, {Length: 1 << 40, Hole: true, Zero: true}}, nil
		}, []string{"data 0+512", "hole 512+512"}},
		{"nothing", func(uint64, uint64, int) ([]backend.Extent, error) { return nil, nil }, []string{"data 0+1024"}},
	} {
		s := newMemory(t, 1<<20)
		record(s).extents = tt.says
		c := dial(t, listen(t, s))
		c.begin(true)
		if parts, data := c.parts(0, 0, 1<<20); !slices.Equal(parts, tt.want) || !bytes.Equal(data, make([]byte, 1<<20)) {
			t.Errorf("%s: sent as %q, not %q", tt.name, parts, tt.want)
		}
	}
}

// A write that was answered before a read is sent is seen by it, wherever the
// Backend had its hole, and although others read the same all the time.
func TestReadSeesAnsweredWrites(t *testing.T) {
	s := newMemory(t, 1<<20)
	addr := listen(t, s)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		other := dial(t, addr)
		other.begin(true)
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					other.parts(0, 0, 256<<10)
				}
			}
		})
	}
	writer, reader := dial(t, addr), dial(t, addr)
	writer.begin(false)
	reader.begin(true)
	for i := range 200 {
		page := uint64(i%8) * 32 << 10
		writer.request(0, wire.CmdWrite, 1, page+100, 4, "here")
		writer.must(1, 0)
		if _, data := reader.parts(0, 0, 256<<10); string(data[page+100:page+104]) != "here" {
			t.Fatalf("round %d: %q was read", i, data[page+100:page+104])
		}
		writer.request(0, wire.CmdWriteZeroes, 1, page, 32<<10)
		writer.must(1, 0)
		if parts, data := reader.parts(0, 0, 256<<10); data[page+100] != 0 || parts[0] != "hole 0+256" {
			t.Fatalf("round %d: zeroes were sent as %q", i, parts)
		}
	}
	close(stop)
	readers.Wait()
}

// failing reads fail from an offset on.
type failing struct {
	backend.Backend
	from uint64
}

func (f failing) ReadAt(ctx context.Context, p []byte, off uint64) error {
	if off+uint64(len(p)) > f.from {
		return &testError{syscall.EIO}
	}
	return f.Backend.ReadAt(ctx, p, off)
}

// A read that fails half way is an error and nothing else.
func TestReadFailsHalfWay(t *testing.T) {
	s := newMemory(t, 1<<20)
	for _, off := range []uint64{0, 512 << 10} {
		if err := s.Exports[0].Backend.WriteAt(t.Context(), []byte("data"), off); err != nil {
			t.Fatal(err)
		}
	}
	s.Exports[0].Backend = failing{s.Exports[0].Backend, 512 << 10}
	c := dial(t, listen(t, s))
	c.begin(true)
	c.request(0, wire.CmdRead, 1, 0, 1<<20)
	if why := c.mustFail(1, wire.EIO); why != "test: input/output error" {
		t.Errorf("the reason is %q", why)
	}
	if parts, _ := c.parts(0, 0, 512<<10); !slices.Equal(parts, []string{"data 0+32", "hole 32+480"}) {
		t.Errorf("the first half is sent as %q", parts)
	}
}
