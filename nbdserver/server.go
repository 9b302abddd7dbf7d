// Package nbdserver is an NBD server, shaped like the server of net/http: fill
// in a Server, give it listeners with Serve, end it gracefully with Shutdown or
// at once with Close. What it serves are Exports, each with a backend.Backend
// that holds the bytes.
//
// What sets it apart is its end. A drain refuses newcomers, lets clients
// finish, then refuses or disconnects those who stay, flushes and closes the
// volumes, always within a bound if one is set; see DrainPolicy. What begins a
// drain is the caller's to say; package exitwhen has conditions. A report.Report
// tells how it went.
//
// Clients may or must use TLS (TLS, and package certificates for its files). What
// they may use, and who may be one, can change while the server serves
// (SetLimits), and so can the sizes of volumes (Reload). What is going on is told
// to Prometheus (Collector), to people (Status) and to a log.
package nbdserver

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/nbdexport/nbdexport/nbdserver/report"
)

// ErrServerClosed is returned by Serve once a drain has begun.
var ErrServerClosed = errors.New("nbdserver: server closed")

// Server serves Exports over any number of listeners. Fill in its fields
// before the first call and leave them alone from then on. All methods may be
// called from any goroutine, Backends included, unless they say otherwise.
type Server struct {
	// Exports by name; the first is also the default export "".
	Exports []*Export
	// TLS is how connections are encrypted; nil means that they aren't.
	TLS *TLS
	// DrainPolicy is what a drain does; nil means to wait for the clients
	// without end, as nbdkit does.
	DrainPolicy *DrainPolicy
	// ConnState is told when a connection enters a state, nil for nobody. It is
	// called in the order of the states, from the connection's goroutine, and
	// must return soon.
	ConnState func(*Conn, ConnState)
	// Version of the program, for the metrics and the status; may be empty.
	Version string
	// Log is told of each client's end and each phase; nil is silence. What anybody
	// could repeat without end it is told the first ten times of a minute.
	Log *zap.Logger

	initOnce sync.Once
	log      *zap.Logger
	sampled  *zap.Logger // for what a client or a broken disk could repeat without end
	started  time.Time
	latency  *prometheus.HistogramVec
	done     chan struct{} // closed when report is final
	forced   chan struct{} // closed by Close
	severed  chan struct{} // closed when every connection has been closed
	left     chan struct{} // told when a connection ends, from Draining on
	limits   atomic.Pointer[limits]
	memory   quota // of the requests in flight
	rates    rates // over all connections
	force    sync.Once
	handlers sync.WaitGroup // goroutines of connections

	peerTimeout time.Duration // if it isn't the constant, in tests

	mu        sync.Mutex
	phase     Phase
	listeners map[net.Listener]struct{}
	conns     map[*Conn]struct{}
	report    report.Report
	// When closeStalled looked last.
	stallChecked time.Time
	// The pause under way, nil for none. It may be read without mu.
	pause atomic.Pointer[pause]

	accepted atomic.Uint64
	refused  [reasons]atomic.Uint64
	stalled  atomic.Uint64 // connections that closeStalled has closed
	panics   atomic.Uint64
	inFlight atomic.Int64
}

func (s *Server) init() {
	s.initOnce.Do(func() {
		s.done = make(chan struct{})
		s.forced = make(chan struct{})
		s.severed = make(chan struct{})
		s.left = make(chan struct{}, 1)
		s.listeners = make(map[net.Listener]struct{})
		s.conns = make(map[*Conn]struct{})
		s.log = s.Log
		if s.log == nil {
			s.log = zap.NewNop()
		}
		s.sampled = sampled(s.log)
		s.started = time.Now().UTC()
		s.latency = newLatency()
		for _, e := range s.Exports {
			e.panicked = func(p any) { s.panicked("panic of a volume", p, zap.String("export", e.Name)) }
			e.counters.init(s.latency, e.Name)
			e.init(max(maxWork/len(s.Exports), minWork))
		}
		defaults, _ := s.checkLimits(Limits{}) // nothing can be wrong with them
		s.limits.Store(defaults)
		s.memory.resize(defaults.MaxMemory)
	})
}

// Serve accepts connections from l until a drain begins, which closes l. It
// returns ErrServerClosed then. It returns another error only when somebody else
// has closed l: every other trouble of accept(2) passes, and is waited for.
//
// A client that has vanished without a word is found out if its connection is a
// *net.TCPConn, and the user at the other end of a *net.UnixConn is known, also if
// it is wrapped in a connection that has a method NetConn as tls.Conn does.
func (s *Server) Serve(l net.Listener) error {
	s.init()
	s.mu.Lock()
	if s.phase != Serving {
		s.mu.Unlock()
		l.Close()
		return ErrServerClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	var wait time.Duration
	for {
		nc, err := l.Accept()
		if err == nil {
			wait = 0
			s.start(nc)
			continue
		}
		if s.Phase() != Serving {
			return ErrServerClosed
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		// Out of descriptors or memory, or a network that is down: wait for
		// better times, a little longer each time, as net/http does.
		wait = min(max(2*wait, 5*time.Millisecond), time.Second)
		s.log.Warn("accept failed, trying again", zap.Error(err), zap.Duration("after", wait))
		select {
		case <-time.After(wait):
		case <-s.done:
		}
	}
}

// start begins to serve a connection, or closes it if it isn't admitted, which
// nobody is once a drain has begun.
func (s *Server) start(nc net.Conn) {
	s.accepted.Add(1)
	from := clientOf(nc)
	s.mu.Lock()
	displaced, why := s.admit(from)
	if why != admitted {
		s.mu.Unlock()
		nc.Close()
		s.refused[why].Add(1)
		s.sampled.Warn("connection refused", zap.Stringer("peer", nc.RemoteAddr()), zap.String("reason", why.words()))
		return
	}
	c := newConn(s, nc, from)
	s.conns[c] = struct{}{}
	s.handlers.Add(1)
	s.mu.Unlock()
	if displaced != nil && displaced.closeFor(errEvicted) {
		s.refused[evicted].Add(1)
	}
	go c.serve()
}

// ended forgets a connection.
func (s *Server) ended(c *Conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.unchoose(c)
	s.mu.Unlock()
	s.handlers.Done()
	select {
	case s.left <- struct{}{}:
	default:
	}
}

// Shutdown drains the server and waits until it has ended: every client gone,
// every volume flushed and closed. If ctx ends first, Shutdown returns its
// error and the drain goes on. A failed flush or close is returned too.
//
// With the context that a Backend was given for a call, Shutdown begins the
// drain and returns nil at once: it would wait for that very call to return. So
// it is nbdkit_shutdown(3): the call is answered, and more calls may come.
// Backend.Close is given no context; the drain is over by then.
func (s *Server) Shutdown(ctx context.Context) error {
	s.BeginDrain("shutdown")
	if ctx.Value(connKey{}) != nil {
		return nil
	}
	select {
	case <-s.done:
		return s.err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends the server now: it closes listeners and connections without
// regard to requests in flight, which get no answer. It doesn't wait for the
// rest of the end, in which the volumes are flushed and closed: that is over
// when Done is closed, and Report has its result. So a Backend may call Close
// too. The error is always nil; it makes the Server an io.Closer.
func (s *Server) Close() error {
	s.BeginDrain("close")
	s.force.Do(func() { close(s.forced) })
	<-s.severed
	return nil
}

func (s *Server) err() error {
	if r := s.Report(); r.Error != "" {
		return errors.New(r.Error)
	}
	return nil
}

// Done is closed when the server has ended and its Report is final.
func (s *Server) Done() <-chan struct{} {
	s.init()
	return s.done
}

// Report tells why, when and how the server ended. It is final once Done is
// closed.
func (s *Server) Report() report.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report
}
