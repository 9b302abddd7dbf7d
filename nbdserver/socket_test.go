package nbdserver

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// socketBuffer is how many bytes lie in each direction of a socketPair before
// its writer has to wait.
const socketBuffer = 64 << 10

// socketPair is a connection that does what those of the kernel do and net.Pipe
// doesn't, and works in a synctest bubble: it has buffers, it can be closed for
// writing alone, and one that is closed with bytes unread in it is reset, so
// that its peer loses what it hasn't read yet.
func socketPair() (a, b *socket) {
	x, y := newStream(), newStream()
	return &socket{in: x, out: y}, &socket{in: y, out: x}
}

// stream is one direction of a connection.
type stream struct {
	mu      sync.Mutex
	changed *sync.Cond
	data    []byte
	err     error // of reads once data is empty; of writes at once
	held    bool  // reads wait, whatever there is
	// Deadlines of both ends, in the past if they are over.
	readBy, writeBy time.Time
}

func newStream() *stream {
	s := &stream{}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// end lets reads and writes fail; a reset throws the data away.
func (s *stream) end(err error, reset bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil || reset {
		s.err = err
	}
	if reset {
		s.data = nil
	}
	s.changed.Broadcast()
}

func (s *stream) hold(yes bool) {
	s.mu.Lock()
	s.held = yes
	s.mu.Unlock()
	s.changed.Broadcast()
}

func (s *stream) isHeld() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

func (s *stream) setDeadline(which *time.Time, t time.Time) {
	s.mu.Lock()
	*which = t
	s.mu.Unlock()
	s.changed.Broadcast()
	if d := time.Until(t); !t.IsZero() && d > 0 {
		time.AfterFunc(d, s.changed.Broadcast)
	}
}

func over(deadline time.Time) bool { return !deadline.IsZero() && !time.Now().Before(deadline) }

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case over(s.readBy):
			return 0, os.ErrDeadlineExceeded
		case s.held && !errors.Is(s.err, net.ErrClosed):
		case len(s.data) > 0:
			n := copy(p, s.data)
			s.data = s.data[n:]
			s.changed.Broadcast()
			return n, nil
		case s.err != nil:
			return 0, s.err
		}
		s.changed.Wait()
	}
}

func (s *stream) write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch room := socketBuffer - len(s.data); {
		case s.err != nil:
			return n, syscall.EPIPE
		case over(s.writeBy):
			return n, os.ErrDeadlineExceeded
		case room > 0:
			m := min(room, len(p))
			s.data = append(s.data, p[:m]...)
			n, p = n+m, p[m:]
			s.changed.Broadcast()
		}
		if len(p) == 0 {
			return n, nil
		}
		s.changed.Wait()
	}
}

// socket is one end of a socketPair.
type socket struct {
	in, out *stream
	closed  sync.Once
}

func (c *socket) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *socket) Write(p []byte) (int, error) { return c.out.write(p) }

func (c *socket) CloseWrite() error {
	c.out.end(io.EOF, false)
	return nil
}

func (c *socket) Close() error {
	c.closed.Do(func() {
		c.in.mu.Lock()
		unread := len(c.in.data) > 0
		c.in.mu.Unlock()
		c.in.end(net.ErrClosed, true)
		if unread {
			c.out.end(syscall.ECONNRESET, true)
		} else {
			c.out.end(io.EOF, false)
		}
	})
	return nil
}

func (c *socket) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readBy, t)
	return nil
}

func (c *socket) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

func (c *socket) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *socket) LocalAddr() net.Addr  { return &net.UnixAddr{Net: "unix", Name: "test"} }
func (c *socket) RemoteAddr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// socketListener is a net.Listener of sockets.
type socketListener struct {
	backlog chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func newSocketListener() *socketListener {
	return &socketListener{backlog: make(chan net.Conn), closed: make(chan struct{})}
}

// dial returns nil if nobody listens any more.
func (l *socketListener) dial() *socket {
	client, server := socketPair()
	select {
	case l.backlog <- server:
		return client
	case <-l.closed:
		return nil
	}
}

func (l *socketListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *socketListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *socketListener) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: "test"} }
