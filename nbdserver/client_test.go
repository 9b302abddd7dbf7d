package nbdserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/backend/memory"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// rawClient speaks the protocol byte by byte. It shares no code with the
// server's side of the wire, so that an error there doesn't cancel out.
type rawClient struct {
	t *testing.T
	net.Conn
}

// connect joins a client to the server by a pipe in memory, which works in a
// synctest bubble.
func connect(t *testing.T, s *Server) *rawClient {
	t.Helper()
	a, b := net.Pipe()
	s.init()
	s.start(b)
	return &rawClient{t, a}
}

// connectSocket is connect by a pair of sockets, which have buffers and can be closed
// in one direction.
func connectSocket(t *testing.T, s *Server) *rawClient {
	t.Helper()
	client, server := socketPair()
	s.init()
	s.start(server)
	return &rawClient{t, client}
}

// listen serves s on a socket of the loopback until the test ends.
func listen(t *testing.T, s *Server) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	t.Cleanup(func() {
		s.Close()
		<-s.Done()
	})
	return l.Addr()
}

func dial(t *testing.T, a net.Addr) *rawClient {
	t.Helper()
	c, err := net.Dial(a.Network(), a.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &rawClient{t, c}
}

// put sends numbers, strings and bytes.
func (c *rawClient) put(parts ...any) {
	c.t.Helper()
	if _, err := c.Write(pack(parts...)); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

func pack(parts ...any) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		if s, ok := p.(string); ok {
			p = []byte(s)
		}
		if err := binary.Write(&b, binary.BigEndian, p); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

// str is a string behind its length.
func str(s string) []byte { return pack(uint32(len(s)), s) }

func (c *rawClient) get(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatalf("read: %v", err)
	}
	return b
}

func (c *rawClient) u16() uint16 { c.t.Helper(); return binary.BigEndian.Uint16(c.get(2)) }
func (c *rawClient) u32() uint32 { c.t.Helper(); return binary.BigEndian.Uint32(c.get(4)) }
func (c *rawClient) u64() uint64 { c.t.Helper(); return binary.BigEndian.Uint64(c.get(8)) }

// eof expects that the server closes the connection.
func (c *rawClient) eof() {
	c.t.Helper()
	b := make([]byte, 1)
	if n, err := c.Read(b); n != 0 || err == nil {
		c.t.Fatalf("the connection is still open: read %d bytes, error %v", n, err)
	}
}

func (c *rawClient) greet(flags uint32) {
	c.t.Helper()
	if m := c.u64(); m != 0x4e42444d41474943 {
		c.t.Fatalf("greeting begins with %#x", m)
	}
	if m := c.u64(); m != 0x49484156454F5054 {
		c.t.Fatalf("greeting goes on with %#x", m)
	}
	if f := c.u16(); f != 3 {
		c.t.Fatalf("handshake flags are %#x", f)
	}
	c.put(flags)
}

func (c *rawClient) option(o wire.Option, payload ...any) {
	c.t.Helper()
	p := pack(payload...)
	c.put(uint64(0x49484156454F5054), uint32(o), uint32(len(p)), p)
}

// reply reads one reply to an option.
func (c *rawClient) reply(o wire.Option) (wire.OptionReply, []byte) {
	c.t.Helper()
	if m := c.u64(); m != 0x3e889045565a9 {
		c.t.Fatalf("reply begins with %#x", m)
	}
	if got := wire.Option(c.u32()); got != o {
		c.t.Fatalf("reply is to %v, not to %v", got, o)
	}
	typ := wire.OptionReply(c.u32())
	return typ, c.get(int(c.u32()))
}

// replies reads replies up to the last one, which is an acknowledgement or an
// error, and returns their types and the payload of the last.
func (c *rawClient) replies(o wire.Option) ([]wire.OptionReply, []byte) {
	c.t.Helper()
	var types []wire.OptionReply
	for {
		typ, p := c.reply(o)
		types = append(types, typ)
		if typ == wire.RepAck || typ >= 1<<31 {
			return types, p
		}
	}
}

// expect reads the replies to an option; the last must be of the given type.
func (c *rawClient) expect(o wire.Option, want wire.OptionReply) {
	c.t.Helper()
	types, p := c.replies(o)
	if got := types[len(types)-1]; got != want {
		c.t.Fatalf("%v was answered %#x (%q), not %#x", o, uint32(got), p, uint32(want))
	}
}

// begin negotiates the default export, with structured replies and
// base:allocation if wanted.
func (c *rawClient) begin(structured bool) {
	c.t.Helper()
	c.greet(3)
	if structured {
		c.option(wire.OptStructuredReply)
		c.expect(wire.OptStructuredReply, wire.RepAck)
		c.option(wire.OptSetMetaContext, str(""), uint32(1), str("base:allocation"))
		c.expect(wire.OptSetMetaContext, wire.RepAck)
	}
	c.option(wire.OptGo, str(""), uint16(0))
	c.expect(wire.OptGo, wire.RepAck)
}

func (c *rawClient) request(flags wire.CommandFlags, cmd wire.Command, cookie, offset uint64, length uint32, data ...any) {
	c.t.Helper()
	c.put(uint32(0x25609513), uint16(flags), uint16(cmd), cookie, offset, length, pack(data...))
}

// simple reads a simple reply without data.
func (c *rawClient) simple() (cookie uint64, e wire.Errno) {
	c.t.Helper()
	if m := c.u32(); m != 0x67446698 {
		c.t.Fatalf("simple reply begins with %#x", m)
	}
	e = wire.Errno(c.u32())
	return c.u64(), e
}

// must expects a simple reply to a request.
func (c *rawClient) must(cookie uint64, want wire.Errno) {
	c.t.Helper()
	if got, e := c.simple(); got != cookie || e != want {
		c.t.Fatalf("request %d was answered %v, not request %d %v", got, e, cookie, want)
	}
}

// chunk reads one chunk of a structured reply.
func (c *rawClient) chunk() (flags uint16, typ uint16, cookie uint64, payload []byte) {
	c.t.Helper()
	if m := c.u32(); m != 0x668e33ef {
		c.t.Fatalf("chunk begins with %#x", m)
	}
	flags, typ, cookie = c.u16(), c.u16(), c.u64()
	return flags, typ, cookie, c.get(int(c.u32()))
}

// mustFail expects an error chunk and returns its message.
func (c *rawClient) mustFail(cookie uint64, want wire.Errno) string {
	c.t.Helper()
	flags, typ, got, p := c.chunk()
	if flags != 1 || typ != 0x8001 && typ != 0x8002 || got != cookie || wire.Errno(binary.BigEndian.Uint32(p)) != want {
		c.t.Fatalf("chunk is flags %d type %#x request %d payload %q, not an error %v", flags, typ, got, p, want)
	}
	return string(p[6:][:binary.BigEndian.Uint16(p[4:])])
}

// newMemory is a server of one volume in memory.
func newMemory(t testing.TB, size uint64) *Server {
	t.Helper()
	m, err := memory.New(size)
	if err != nil {
		t.Fatal(err)
	}
	return &Server{Exports: []*Export{{Name: "disk", Backend: m}}}
}

// gated is a Backend whose writes and reads wait for gates, and whose flush can
// fail.
type gated struct {
	backend.Backend
	gate     chan struct{} // nil: open
	readGate chan struct{} // the same for reads
	reading  atomic.Int32
	began    chan struct{} // nil, or told of each write that waits
	flushErr error
	panics   atomic.Bool
}

func (g *gated) WriteAt(ctx context.Context, p []byte, off uint64) error {
	if g.panics.Load() {
		panic("gated: asked to")
	}
	if g.began != nil {
		g.began <- struct{}{}
	}
	if g.gate != nil {
		select {
		case <-g.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return g.Backend.WriteAt(ctx, p, off)
}

func (g *gated) ReadAt(ctx context.Context, p []byte, off uint64) error {
	g.reading.Add(1)
	defer g.reading.Add(-1)
	if g.readGate != nil {
		<-g.readGate
	}
	return g.Backend.ReadAt(ctx, p, off)
}

func (g *gated) Flush(ctx context.Context) error {
	if g.flushErr != nil {
		return g.flushErr
	}
	return g.Backend.Flush(ctx)
}

// gate puts a gate before the backend of the server's first export.
func gate(s *Server) *gated {
	g := &gated{Backend: s.Exports[0].Backend}
	s.Exports[0].Backend = g
	return g
}

// ended waits for the end and checks when and how it came.
func ended(t *testing.T, s *Server, after time.Duration, code int) {
	t.Helper()
	<-s.Done()
	r := s.Report()
	if got := r.FinishedAt.Sub(r.StartedAt); got != after || r.ExitCode != code {
		t.Errorf("the drain took %v, not %v; exit code %d, not %d; report %+v", got, after, r.ExitCode, code, r)
	}
}
