package interop

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"
)

// Numbers of the protocol, written out here so that they don't share an error
// with the server.
const (
	cmdRead, cmdWrite, cmdDisc, cmdFlush = 0, 1, 2, 3

	flagFUA = 1

	eShutdown = 108
)

// rawClient speaks the protocol byte by byte, and so sees what libraries hide:
// when a connection is closed, and the order of things.
type rawClient struct {
	t *testing.T
	net.Conn
}

// connect negotiates the default export with NBD_OPT_GO. The connection is
// closed at the end of the test.
func (s *server) connect(transport string) *rawClient {
	s.t.Helper()
	addr := s.tcp()
	if transport == "unix" {
		addr = s.socket
	}
	nc, err := net.Dial(transport, addr)
	if err != nil {
		s.t.Fatal(err)
	}
	return negotiate(s.t, nc)
}

// negotiate is connect for a connection that is there.
func negotiate(t *testing.T, nc net.Conn) *rawClient {
	t.Helper()
	t.Cleanup(func() { nc.Close() })
	c := &rawClient{t, nc}
	if err := nc.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	if got := c.get(18); !bytes.Equal(got, []byte("NBDMAGICIHAVEOPT\x00\x03")) {
		t.Fatalf("the greeting is %q", got)
	}
	c.put(pack(uint32(3)))
	c.choose()
	return c
}

// choose asks for the default export.
func (c *rawClient) choose() {
	c.t.Helper()
	c.put(option(7, pack(uint32(0), uint16(0))))
	for {
		h := c.get(20)
		c.get(int(binary.BigEndian.Uint32(h[16:])))
		switch typ := binary.BigEndian.Uint32(h[12:]); {
		case typ == 1:
			return
		case typ >= 1<<31:
			c.t.Fatalf("NBD_OPT_GO is answered %#x", typ)
		}
	}
}

func pack(numbers ...any) []byte {
	var b []byte
	for _, n := range numbers {
		b, _ = binary.Append(b, binary.BigEndian, n)
	}
	return b
}

func option(number uint32, payload []byte) []byte {
	return append(pack([]byte("IHAVEOPT"), number, uint32(len(payload))), payload...)
}

func request(flags, cmd uint16, cookie, offset uint64, length uint32) []byte {
	return pack(uint32(0x25609513), flags, cmd, cookie, offset, length)
}

func (c *rawClient) put(parts ...[]byte) {
	c.t.Helper()
	if _, err := c.Write(bytes.Join(parts, nil)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *rawClient) get(n int) []byte {
	c.t.Helper()
	p := make([]byte, n)
	if _, err := io.ReadFull(c, p); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// reply reads a simple reply.
func (c *rawClient) reply() (cookie uint64, errno uint32) {
	c.t.Helper()
	h := c.get(16)
	if magic := binary.BigEndian.Uint32(h); magic != 0x67446698 {
		c.t.Fatalf("a reply begins with %#x", magic)
	}
	return binary.BigEndian.Uint64(h[8:]), binary.BigEndian.Uint32(h[4:])
}

// read asks for a range and checks that it comes.
func (c *rawClient) read(offset uint64, length uint32) []byte {
	c.t.Helper()
	c.put(request(0, cmdRead, offset, offset, length))
	if cookie, errno := c.reply(); cookie != offset || errno != 0 {
		c.t.Fatalf("the read at %d is answered: cookie %d, error %d", offset, cookie, errno)
	}
	return c.get(int(length))
}

// disconnect leaves in the proper way.
func (c *rawClient) disconnect() {
	c.t.Helper()
	c.put(request(0, cmdDisc, 0, 0, 0))
	c.awaitClose()
}

// awaitClose expects that the server closes the connection.
func (c *rawClient) awaitClose() {
	c.t.Helper()
	n, err := io.Copy(io.Discard, c)
	if n != 0 {
		c.t.Errorf("%d bytes more came", n)
	}
	if t, ok := err.(net.Error); ok && t.Timeout() {
		c.t.Fatal("the connection stays open")
	}
}
