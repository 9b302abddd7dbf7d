package nbdserver

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/report"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// What clients see of the drain is in testdata/drain. Here is what its tables
// can't show.

// bounds is a policy with a grace of 10 s and a timeout of 30 s.
func bounds(p Policy) *DrainPolicy {
	return &DrainPolicy{Grace: 10 * time.Second, Timeout: 30 * time.Second, Policy: p}
}

// Every option is answered that the server ends, also one too long to be read.
func TestOversizedOptionInADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		c := connect(t, s)
		c.greet(3)
		s.BeginDrain("test")
		go c.option(wire.OptInfo, make([]byte, maxOption+1))
		c.expect(wire.OptInfo, wire.RepErrShutdown)
		synctest.Wait()
		c.option(wire.OptAbort)
		c.expect(wire.OptAbort, wire.RepAck)
		c.Close()
	})
}

// A drain closes all listeners, of any kind, and the Serve of each returns.
func TestDrainClosesAllListeners(t *testing.T) {
	s := newMemory(t, 1<<20)
	t.Chdir(t.TempDir()) // its path may be too long for a socket
	served := make(chan error)
	var addrs []net.Addr
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": "sock"} {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, l.Addr())
		go func() { served <- s.Serve(l) }()
	}
	var clients []*rawClient
	for _, a := range addrs {
		c := dial(t, a)
		c.begin(false)
		clients = append(clients, c)
	}
	s.BeginDrain("test")
	for range addrs {
		if err := <-served; !errors.Is(err, ErrServerClosed) {
			t.Errorf("Serve returned %v", err)
		}
	}
	for _, a := range addrs {
		if c, err := net.Dial(a.Network(), a.String()); err == nil {
			c.Close()
			t.Errorf("a newcomer was let in at %v", a)
		}
	}
	for _, c := range clients {
		c.request(0, wire.CmdRead, 1, 0, 4)
		c.must(1, 0)
		c.get(4)
		c.request(0, wire.CmdDisc, 2, 0, 0)
		c.eof()
	}
	<-s.Done()
}

// A connection that was accepted when the drain began, but not yet begun, is
// closed.
func TestDrainOvertakesAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		first := connect(t, s)
		first.begin(false)
		s.BeginDrain("test")
		connect(t, s).eof() // as Serve does with what it accepts
		first.Close()
		<-s.Done()
	})
}

// Whoever closes a listener ends its Serve, and nothing else.
func TestListenerClosedBySomebodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		one, two := newSocketListener(), newSocketListener()
		served := make(chan error, 1)
		go func() { served <- s.Serve(one) }()
		go s.Serve(two)
		c := rawClient{t, one.dial()}
		c.begin(false)
		one.Close()
		if err := <-served; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve returned %v", err)
		}
		synctest.Wait() // for the other Serve
		if n := len(s.listeners); n != 1 {
			t.Errorf("the server still knows %d listeners", n)
		}
		d := rawClient{t, two.dial()}
		d.begin(false)
		c.request(0, wire.CmdDisc, 1, 0, 0)
		d.request(0, wire.CmdDisc, 1, 0, 0)
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// flaky is a listener on which accept fails for a while.
type flaky struct {
	*socketListener
	failures int
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.failures > 0 {
		f.failures--
		return nil, syscall.EMFILE
	}
	return f.socketListener.Accept()
}

// A server that is out of descriptors goes on when it has some again, and its
// drain doesn't wait for that.
func TestAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		l := &flaky{newSocketListener(), 5}
		go s.Serve(l)
		c := rawClient{t, l.dial()}
		c.begin(false)
		c.Close()
		s.BeginDrain("test")
		<-s.Done()

		s = newMemory(t, 1<<20)
		served := make(chan error)
		go func() { served <- s.Serve(&flaky{newSocketListener(), 1000}) }()
		time.Sleep(10 * time.Second)
		begun := time.Now()
		s.BeginDrain("test")
		if err := <-served; !errors.Is(err, ErrServerClosed) || time.Since(begun) != 0 {
			t.Errorf("Serve returned %v after %v", err, time.Since(begun))
		}
	})
}

// The longest timeout that there is is not one that has passed.
func TestDrainTimeoutDoesNotWrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		s.DrainPolicy = &DrainPolicy{Grace: Infinite, Timeout: math.MaxInt64}
		d := newDisk(s, s.Exports[0].Backend)
		s.Exports[0].Backend = d
		d.do("hangs flush")
		s.BeginDrain("test")
		time.Sleep(time.Hour)
		d.do("recovers")
		<-s.Done()
		if r := s.Report(); r.ExitCode != report.ExitClean {
			t.Errorf("report %+v", r)
		}
	})
}

func TestShutdownReturnsTheFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		gate(s).flushErr = &testError{syscall.EIO}
		if err := s.Shutdown(t.Context()); err == nil || err.Error() != s.Report().Error {
			t.Errorf("Shutdown returned %v, the report has %q", err, s.Report().Error)
		}
	})
}

func TestShutdownReturnsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		c := connect(t, s)
		c.begin(false)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, ctx.Err()) || err == nil {
			t.Errorf("Shutdown returned %v", err)
		}
		c.Close()
		<-s.Done()
	})
}

func TestServeAfterTheEnd(t *testing.T) {
	s := newMemory(t, 1<<20)
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	l := newListener(t)
	if err := s.Serve(l); !errors.Is(err, ErrServerClosed) {
		t.Errorf("Serve returned %v", err)
	}
	if _, err := l.Accept(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the listener is still open: %v", err)
	}
}
