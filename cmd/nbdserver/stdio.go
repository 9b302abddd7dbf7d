package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// stdioListener is a listener for the one client of --stdio.
type stdioListener struct {
	conn   chan net.Conn // it holds the client's connection until that is accepted
	left   chan struct{} // gets a value when the connection has been closed
	once   sync.Once
	closed chan struct{}
}

// listenStdio takes standard input and output over for a client. What the rest of
// the process reads from there is nothing from then on, and what it writes there
// is lost.
func listenStdio() (*stdioListener, error) {
	nc, err := openStdio()
	if err != nil {
		return nil, fmt.Errorf("--stdio: %w", err)
	}
	l := &stdioListener{
		conn:   make(chan net.Conn, 1),
		left:   make(chan struct{}, 1),
		closed: make(chan struct{}),
	}
	l.conn <- &stdioConn{Conn: nc, left: l.left}
	return l, nil
}

// Accept implements net.Listener.
func (l *stdioListener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conn:
		return nc, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *stdioListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *stdioListener) Addr() net.Addr { return stdioAddr{} }

// stdioConn tells when it is closed, whoever does that.
type stdioConn struct {
	net.Conn
	left chan<- struct{}
	once sync.Once
}

// Close implements net.Conn.
func (c *stdioConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { c.left <- struct{}{} })
	return err
}

// NetConn is the connection below, as the server looks for it.
func (c *stdioConn) NetConn() net.Conn { return c.Conn }

// CloseWrite closes the direction to the client.
func (c *stdioConn) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

// silenceStdio puts /dev/null in the place of standard error if that is the
// client's socket too, as inetd(8) has it: a line of the log would break the
// protocol.
func silenceStdio() error {
	var in, log unix.Stat_t
	if unix.Fstat(0, &in) != nil || unix.Fstat(2, &log) != nil || !sameSocket(in, log) {
		return nil
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	return unix.Dup3(int(null.Fd()), 2, 0)
}

func sameSocket(a, b unix.Stat_t) bool {
	return a.Mode&unix.S_IFMT == unix.S_IFSOCK && a.Dev == b.Dev && a.Ino == b.Ino
}

// openStdio makes a connection of the descriptors 0 and 1, and puts /dev/null in
// their places.
func openStdio() (net.Conn, error) {
	const input, output = "standard input", "standard output"
	var st [2]unix.Stat_t
	for fd, name := range []string{input, output} {
		if err := checkStdio(fd, &st[fd]); err != nil {
			return nil, fmt.Errorf("%s %w", name, err)
		}
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	var fds [2]int
	for fd := range fds {
		if fds[fd], err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, firstInherited); err == nil {
			err = unix.Dup3(int(null.Fd()), fd, 0)
		}
		// That they don't block is a property that they share with other
		// processes, but a client's pipe or socket is nobody else's.
		if err == nil {
			err = unix.SetNonblock(fds[fd], true)
		}
		if err != nil {
			return nil, err
		}
	}
	in, out := os.NewFile(uintptr(fds[0]), input), os.NewFile(uintptr(fds[1]), output)
	if sameSocket(st[0], st[1]) {
		defer in.Close()
		defer out.Close()
		return net.FileConn(in)
	}
	p := pipes{in, out}
	// It fails if the runtime can't wait for them.
	if err := p.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return p, nil
}

// checkStdio refuses what a client can't be at the other end of: a terminal, a
// file, nothing.
func checkStdio(fd int, st *unix.Stat_t) error {
	if err := unix.Fstat(fd, st); err != nil {
		return fmt.Errorf("can't be looked at: %w", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFIFO:
		return nil
	case unix.S_IFSOCK:
		return checkStream(fd, false)
	}
	return errors.New("is neither a pipe nor a socket: let a client or a superserver start this process")
}

// pipes is a connection of two descriptors, one for each direction.
type pipes struct{ in, out *os.File }

func (p pipes) Read(b []byte) (int, error)         { return p.in.Read(b) }
func (p pipes) Write(b []byte) (int, error)        { return p.out.Write(b) }
func (p pipes) SetReadDeadline(t time.Time) error  { return p.in.SetReadDeadline(t) }
func (p pipes) SetWriteDeadline(t time.Time) error { return p.out.SetWriteDeadline(t) }
func (p pipes) LocalAddr() net.Addr                { return stdioAddr{} }
func (p pipes) RemoteAddr() net.Addr               { return stdioAddr{} }

// SetDeadline implements net.Conn.
func (p pipes) SetDeadline(t time.Time) error {
	return errors.Join(p.in.SetReadDeadline(t), p.out.SetWriteDeadline(t))
}

// CloseWrite closes the direction to the client.
func (p pipes) CloseWrite() error { return p.out.Close() }

// Close implements net.Conn.
func (p pipes) Close() error {
	err := p.in.Close()
	if e := p.out.Close(); !errors.Is(e, os.ErrClosed) { // by CloseWrite
		err = errors.Join(err, e)
	}
	return err
}

// stdioAddr is the address of --stdio, and of either end of pipes.
type stdioAddr struct{}

func (stdioAddr) Network() string { return "stdio" }
func (stdioAddr) String() string  { return "stdio" }
