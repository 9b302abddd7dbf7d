package nbdserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// maxRequests is how many requests of one connection are worked on at a
	// time. The next ones wait in the socket.
	maxRequests = 64
	// readBuffer holds the headers of a burst of small requests.
	readBuffer = 64 << 10
	// lingerTimeout is how long a connection that the server closes waits for
	// the client to close its side, see hangUp.
	lingerTimeout = 2 * time.Second
	// lingerBytes is how much of a client that has broken the protocol is thrown away
	// meanwhile, as much as four of the largest options: one that sends without end would
	// keep a CPU busy.
	lingerBytes = 4 << 20
)

// Conn is one client's connection.
type Conn struct {
	srv *Server
	raw net.Conn  // what the client was accepted on
	nc  net.Conn  // raw, or TLS over it
	tls *tls.Conn // nc once its handshake is done, else nil; set under mu
	br  *bufio.Reader

	peer    net.Addr
	from    client       // as limits see the peer
	since   time.Time    // it was accepted
	state   atomic.Int32 // a ConnState
	greeted bool         // the client has answered the greeting

	// Set by the negotiation, fixed from then on.
	export     *Export
	size       uint64 // of the export in bytes, as the client was told
	fixed      bool   // the client speaks fixed newstyle
	noZeroes   bool
	structured bool    // replies come in chunks
	extended   bool    // requests and replies have extended headers; structured is set too
	allocation *Export // has base:allocation selected, if not nil

	ctx    context.Context // of the requests; canceled by cut
	cancel context.CancelFunc

	slots    chan struct{} // a place for each request in flight
	memory   quota         // of the requests in flight
	held     atomic.Int64  // bytes of the server's memory
	rates    rates
	progress progress
	inFlight sync.WaitGroup

	// writing is full while a reply is made and sent, with what is used again for the
	// next. It is no mutex: clients may take their time, and a test's clock stands
	// still while a goroutine waits for a mutex (package synctest).
	writing chan struct{}
	header  [64]byte    // of a reply, or of its first chunk
	bufs    [][]byte    // the parts of a piece
	out     net.Buffers // what is left of bufs
	record  []byte      // the parts joined, see joins

	mu       sync.Mutex
	serving  bool // the client has its export
	refusing bool // no new request but a disconnect is served
	leaving  bool // no new request is read
	idle     bool // the reader waits for a request
	// How the connection has ended, for its line in the log, nil for not yet:
	// it was closed by force, or all is answered and only the goodbye is left.
	over error

	// Guarded by srv.mu.
	evicted bool    // a newcomer has its place
	chosen  *Export // has a place among its clients

	requests      atomic.Uint64
	errors        atomic.Uint64 // requests that were answered with one
	read, written atomic.Uint64 // bytes
}

// ConnState is where a connection is in its life.
type ConnState int

// States of a connection.
const (
	// StateNegotiating: accepted, no export chosen yet.
	StateNegotiating ConnState = iota
	// StateConnected: the client has chosen an export. It is told of that after
	// ConnState has returned.
	StateConnected
	// StateEnded: nothing of the connection is under way any more.
	StateEnded
)

// connKey is the key of a Conn in every context that a Backend is given; the Conn
// is nil in that of a flush that no connection asked for.
type connKey struct{}

// ConnFromContext returns the connection whose request a Backend is working on,
// from the context that the Backend was given, or nil if there is none. Of the
// connections that wait for the same Flush it is the one that asked first.
func ConnFromContext(ctx context.Context) *Conn {
	c, _ := ctx.Value(connKey{}).(*Conn)
	return c
}

// Ways in which a connection ends, for its line in the log.
var (
	errAborted    = errors.New("client aborted the negotiation")
	errGone       = errors.New("client closed the connection")
	errLeft       = errors.New("client disconnected")
	errDrained    = errors.New("disconnected by the drain")
	errCut        = errors.New("closed by force")
	errHandshake  = errors.New(handshakeTimeout.words())
	errBadRequest = errors.New(protocolError.words())
	errPanicked   = errors.New("closed after a panic")
)

// newConn is called with s.mu held.
func newConn(s *Server, nc net.Conn, from client) *Conn {
	c := &Conn{
		srv:     s,
		raw:     nc,
		nc:      nc,
		peer:    nc.RemoteAddr(),
		from:    from,
		since:   time.Now(), // with the monotonic clock, see moved
		br:      bufio.NewReaderSize(nc, readBuffer),
		slots:   make(chan struct{}, maxRequests),
		writing: make(chan struct{}, 1),
	}
	l := s.limits.Load()
	c.memory.resize(l.MaxConnectionMemory)
	c.rates.set(l.ConnectionRate)
	c.ctx, c.cancel = context.WithCancel(context.WithValue(context.Background(), connKey{}, c))
	return c
}

// serve is the whole life of the connection.
func (c *Conn) serve() {
	defer c.srv.ended(c)
	defer c.enter(StateEnded)
	c.enter(StateNegotiating)
	c.watchPeer()
	err := c.run()
	c.inFlight.Wait()
	c.mu.Lock()
	if c.over == nil {
		c.over = err
	}
	err = c.over
	c.mu.Unlock()
	c.endTLS()
	switch {
	case errors.Is(err, errBadRequest):
		c.hangUp(lingerBytes)
	case errors.Is(err, errDrained), errors.Is(err, errTLS):
		c.hangUp(math.MaxInt64)
	}
	c.cancel()
	c.raw.Close()
	c.countEnd(err)
	c.logEnd(err)
}

func (c *Conn) run() error {
	defer c.recoverPanic()
	c.raw.SetDeadline(time.Now().Add(c.srv.limits.Load().HandshakeTimeout))
	switch err := c.negotiate(); {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errHandshake
	case errors.Is(err, errTLS):
		return err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errGone
	case err != nil:
		return err
	}
	c.mu.Lock()
	if c.over != nil {
		c.mu.Unlock()
		return c.over
	}
	c.raw.SetDeadline(time.Time{})
	c.mu.Unlock()
	return c.transmit()
}

func (c *Conn) enter(s ConnState) {
	c.state.Store(int32(s))
	if c.srv.ConnState != nil {
		defer c.recoverPanic()
		c.srv.ConnState(c, s)
	}
}

// recoverPanic turns a panic of a Backend, of ConnState, or of our own into the
// end by force of this one connection.
func (c *Conn) recoverPanic() {
	p := recover()
	if p == nil {
		return
	}
	c.srv.panicked("panic; its connection is closed", p, zap.Stringer("peer", c.peer))
	c.closeFor(errPanicked)
}

// Disconnect ends this connection; others aren't affected, and the client may
// come back. With force it is closed at once: neither the requests in flight
// nor any later one get an answer, and a request that changes the volume may
// have happened or not. Without force the requests in flight complete, and
// every later one but NBD_CMD_DISC fails with NBD_ESHUTDOWN until the client
// leaves; a client that still negotiates may finish that. It returns at once and
// may be called by a Backend, for which it is nbdkit_disconnect(3): with force,
// requests that wait for their turn don't get to the Backend any more.
func (c *Conn) Disconnect(force bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if force {
		c.closeLocked(errCut)
	} else {
		c.refusing = true
	}
}

// closeFor closes the connection at once for a reason that stands in the log, and
// tells whether it wasn't over before.
func (c *Conn) closeFor(why error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closeLocked(why)
}

func (c *Conn) closeLocked(why error) bool {
	first := c.over == nil
	if first {
		c.over = why
	}
	c.raw.Close() // first: a request that is canceled must not be answered any more
	c.cancel()
	return first
}

// quiesce does what the policy says when the grace of a drain is over.
func (c *Conn) quiesce(p Policy) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.serving:
		c.closeLocked(errDrained)
	case p == Refuse:
		c.refusing = true
	default:
		c.leaving = true
		// A request whose payload is still arriving is let in; only the wait
		// for the next one is cut short.
		if c.idle {
			c.raw.SetReadDeadline(time.Unix(1, 0))
		}
	}
}

// cut closes the connection at once, and tells whether a client was cut off by
// that: one that still negotiated had nothing to lose, and neither has one for
// which it is over already.
func (c *Conn) cut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.serving {
		c.closeLocked(errDrained)
		return false
	}
	return c.closeLocked(errCut)
}

// hangUp closes the server's side, below TLS, and waits a little for the client
// to close its own. If the socket were closed while bytes of the client lie
// unread in it, the kernel would answer them with a reset, and a reset makes the
// client's kernel throw away replies that it hasn't read yet. That happens to who sends
// more bytes than most.
func (c *Conn) hangUp(most int64) {
	if h, ok := c.raw.(interface{ CloseWrite() error }); !ok || h.CloseWrite() != nil {
		return
	}
	c.raw.SetReadDeadline(time.Now().Add(lingerTimeout))
	_, _ = io.CopyN(io.Discard, c.raw, most) // until it closes, breaks, or the time is over
}
