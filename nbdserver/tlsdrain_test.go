package nbdserver

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/certificates"
	"github.com/nbdexport/nbdexport/nbdserver/report"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// all reads until the server closes, which must be in the proper way.
func (c *rawClient) all() []byte {
	c.t.Helper()
	b, err := io.ReadAll(c)
	if err != nil {
		c.t.Fatalf("read: %v", err)
	}
	return b
}

// beginTLS negotiates the default export over TLS.
func (c *rawClient) beginTLS(config *tls.Config) {
	c.t.Helper()
	c.greet(3)
	c.startTLS(config)
	c.option(wire.OptGo, str(""), uint16(0))
	c.expect(wire.OptGo, wire.RepAck)
}

func TestDrainRefusesOverTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		client, _ := encrypt(t, s, TLSRequire, certificates.Options{})
		s.DrainPolicy = bounds(Refuse)
		c := connect(t, s)
		c.beginTLS(client)
		s.BeginDrain("test")
		time.Sleep(9 * time.Second)
		c.request(0, wire.CmdRead, 1, 0, 4)
		c.must(1, 0)
		c.get(4)
		time.Sleep(2 * time.Second)
		c.request(0, wire.CmdRead, 2, 0, 4)
		c.must(2, wire.ESHUTDOWN)
		c.request(0, wire.CmdDisc, 3, 0, 0)
		c.eof()
		ended(t, s, 11*time.Second, report.ExitClean)
	})
}

func TestDrainDisconnectsOverTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		client, _ := encrypt(t, s, TLSRequire, certificates.Options{})
		s.DrainPolicy = bounds(Disconnect)
		c := connect(t, s)
		c.beginTLS(client)
		s.BeginDrain("test")
		c.eof()
		ended(t, s, 10*time.Second, report.ExitClean)
	})
}

func TestDrainRefusesStartTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		encrypt(t, s, TLSRequire, certificates.Options{})
		c := connect(t, s)
		c.greet(3)
		s.BeginDrain("test")
		c.option(wire.OptStartTLS)
		c.expect(wire.OptStartTLS, wire.RepErrShutdown)
		c.option(wire.OptAbort)
		c.expect(wire.OptAbort, wire.RepAck)
		c.eof()
		ended(t, s, 0, report.ExitClean)
	})
}

// Who is in the middle of a TLS handshake when the grace is over still
// negotiates, and is closed.
func TestDrainClosesTLSHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		encrypt(t, s, TLSRequire, certificates.Options{})
		s.SetLimits(Limits{HandshakeTimeout: time.Hour})
		s.DrainPolicy = bounds(Refuse)
		c := connect(t, s)
		c.greet(3)
		c.option(wire.OptStartTLS)
		c.expect(wire.OptStartTLS, wire.RepAck)
		s.BeginDrain("test")
		c.eof()
		ended(t, s, 10*time.Second, report.ExitClean)
	})
}

// Closing by force waits for nobody: TLS would say goodbye first, to a client
// that doesn't read, and for that wait behind a reply that it doesn't read.
func TestCloseCutsOffTLS(t *testing.T) {
	for name, asks := range map[string]bool{"idle": false, "in a reply": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 1<<20)
				client, _ := encrypt(t, s, TLSRequire, certificates.Options{})
				c := connect(t, s)
				c.beginTLS(client)
				if asks {
					c.request(0, wire.CmdRead, 1, 0, 1<<20)
				}
				synctest.Wait()
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				ended(t, s, 0, report.ExitClientsCut)
			})
		})
	}
}

// held is a Backend whose reads tell that they began and wait.
type held struct {
	backend.Backend
	began, release chan struct{}
}

func (h *held) ReadAt(ctx context.Context, p []byte, off uint64) error {
	h.began <- struct{}{}
	<-h.release
	return h.Backend.ReadAt(ctx, p, off)
}

// A client that is disconnected gets every reply to what was in flight, however
// late it reads, and although the server leaves a request of it unread: a reset
// would destroy what is still in the server's socket.
func TestDisconnectedTLSClientGetsItsReplies(t *testing.T) {
	t.Parallel()
	s := newMemory(t, 1<<20)
	client, _ := encrypt(t, s, TLSRequire, certificates.Options{})
	s.DrainPolicy = &DrainPolicy{Timeout: Infinite, Policy: Disconnect}
	h := &held{s.Exports[0].Backend, make(chan struct{}), make(chan struct{})}
	s.Exports[0].Backend = h
	l := newListener(t)
	defer l.Close()
	c := dial(t, l.Addr())
	if err := c.Conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.(*net.TCPConn).SetWriteBuffer(256 << 10); err != nil {
		t.Fatal(err)
	}
	s.init()
	s.start(nc)
	c.beginTLS(client)
	const reads, size = 8, 8 << 10
	for i := range reads {
		c.request(0, wire.CmdRead, uint64(i), 0, size)
		<-h.began
	}
	s.BeginDrain("test")
	conn := s.connections()[0]
	for leaving := false; !leaving; time.Sleep(time.Millisecond) {
		conn.mu.Lock()
		leaving = conn.leaving
		conn.mu.Unlock()
	}
	c.request(0, wire.CmdRead, 99, 0, size)
	close(h.release)
	<-s.Done() // the client hasn't read anything yet
	if got := len(c.all()); got != reads*(16+size) {
		t.Errorf("%d bytes of replies, not %d", got, reads*(16+size))
	}
	if r := s.Report(); r.ExitCode != report.ExitClean {
		t.Errorf("report %+v", r)
	}
}

// records keeps what a connection reads.
type records struct {
	net.Conn
	b []byte
}

func (r *records) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.b = append(r.b, p[:n]...)
	return n, err
}

// last is the type of the last record of TLS 1.2, and how many there are.
func (r *records) last() (typ byte, n int) {
	for b := r.b; len(b) >= 5; n++ {
		typ = b[0]
		b = b[5+int(b[3])<<8+int(b[4]):]
	}
	return typ, n
}

// The specification has the server shut down TLS before it closes, however it
// comes to that. Types of records are in the clear in TLS 1.2; 21 is an alert.
func TestCloseNotify(t *testing.T) {
	for name, say := range map[string]func(*rawClient, *Server){
		"disconnect":  func(c *rawClient, _ *Server) { c.request(0, wire.CmdDisc, 1, 0, 0) },
		"bad request": func(c *rawClient, _ *Server) { c.put(make([]byte, wire.RequestSize)) },
		"drain":       func(_ *rawClient, s *Server) { s.BeginDrain("test") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 1<<20)
				client, _ := encrypt(t, s, TLSRequire, certificates.Options{})
				s.DrainPolicy = &DrainPolicy{Timeout: time.Minute, Policy: Disconnect}
				client.MaxVersion = tls.VersionTLS12
				c := connect(t, s)
				r := &records{Conn: c.Conn}
				c.Conn = r
				c.beginTLS(client)
				r.b = nil
				say(c, s)
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Errorf("the connection ends with %v", err)
				}
				if typ, _ := r.last(); typ != 21 {
					t.Errorf("the last record is of type %d", typ)
				}
				c.Close()
			})
		})
	}
}

// A small reply is one record, not one for its header and one for its data.
func TestReplyIsOneRecord(t *testing.T) {
	s := newMemory(t, 1<<20)
	client, _ := encrypt(t, s, TLSRequire, certificates.Options{})
	client.MaxVersion = tls.VersionTLS12
	c := dial(t, listen(t, s))
	r := &records{Conn: c.Conn}
	c.Conn = r
	c.beginTLS(client)
	r.b = nil
	c.request(0, wire.CmdRead, 1, 0, 512)
	c.must(1, 0)
	c.get(512)
	if _, n := r.last(); n != 1 {
		t.Errorf("a reply of 512 bytes is %d records", n)
	}
	// And a large one is whole.
	c.request(0, wire.CmdRead, 2, 0, 1<<20)
	c.must(2, 0)
	c.get(1 << 20)
}

// A reply of several chunks comes whole: data, and a hole behind it.
func TestChunksOverTLS(t *testing.T) {
	s := newMemory(t, 1<<20)
	client, _ := encrypt(t, s, TLSRequire, certificates.Options{})
	c := dial(t, listen(t, s))
	c.greet(3)
	c.startTLS(client)
	c.option(wire.OptStructuredReply)
	c.expect(wire.OptStructuredReply, wire.RepAck)
	c.option(wire.OptGo, str(""), uint16(0))
	c.expect(wire.OptGo, wire.RepAck)
	c.request(0, wire.CmdWrite, 1, 0, 4, "data")
	c.chunk()
	const size = 512 << 10
	c.request(0, wire.CmdRead, 2, 0, size)
	data, hole := 0, 0
	for done := false; !done; {
		flags, typ, _, p := c.chunk()
		switch done = flags&1 != 0; typ {
		case 1: // OFFSET_DATA
			data += len(p) - 8
		case 2: // OFFSET_HOLE
			hole += int(binary.BigEndian.Uint32(p[8:]))
		}
	}
	if data == 0 || hole == 0 || data+hole != size {
		t.Errorf("%d bytes of data and %d of holes, of %d", data, hole, size)
	}
}
