package nbdserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nbdexport/nbdexport/nbdserver/report"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// Phase is where a server is in its life. It only ever goes forward.
type Phase int

// Phases of a server.
const (
	// Serving: newcomers are accepted, clients are served.
	Serving Phase = iota
	// Draining: the listeners are closed; a client that still negotiates gets
	// NBD_REP_ERR_SHUTDOWN to every option but NBD_OPT_ABORT; connected
	// clients are served until they leave.
	Draining
	// Quiescing: the grace is over. Who still negotiates is closed. What is in
	// flight completes; then the Policy decides.
	Quiescing
	// Closing: the last client left, or the timeout is over: what is left is
	// closed at once, volumes are flushed and closed.
	Closing
	// Ended: the report is final.
	Ended
)

// String returns the phase as it stands in logs, metrics and the status.
func (p Phase) String() string {
	return [...]string{"Serving", "Draining", "Quiescing", "Closing", "Ended"}[p]
}

// Policy says what becomes of clients that stay when the grace of a drain is
// over.
type Policy int

// Policies.
const (
	// Refuse answers every later request but NBD_CMD_DISC with NBD_ESHUTDOWN,
	// as the specification has it, until the client leaves.
	Refuse Policy = iota
	// Disconnect closes each connection as soon as nothing is in flight on it.
	// It is kinder to clients that reconnect after a close, but pass an error
	// on to their users: the kernel's and qemu's.
	Disconnect
)

// Infinite is a duration without end.
const Infinite time.Duration = -1

// closeTimeout is what the flush and the close of the volumes may take beyond
// the timeout of a drain that has one, or from Close on. A disk that hangs must
// not hang the server: whoever waits for its end would kill it, and learn
// nothing.
const closeTimeout = 10 * time.Second

// DrainPolicy sets the bounds of a drain. Durations count from its beginning
// and may be Infinite.
type DrainPolicy struct {
	// Grace is how long connected clients are served as ever.
	Grace time.Duration
	// Timeout is when those who are left are cut off. One that isn't longer
	// than Grace takes its place.
	Timeout time.Duration
	// Policy rules the time between the two.
	Policy Policy
}

// Phase returns the phase that the server is in.
func (s *Server) Phase() Phase {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.phase
}

// BeginDrain starts a drain and returns at once. The first call wins: its
// condition, in the words of report.Report, is the one that is reported; later
// calls do nothing. It is nbdkit_shutdown(3), and may be called by a Backend.
func (s *Server) BeginDrain(condition string) {
	s.init()
	s.mu.Lock()
	if s.phase != Serving {
		s.mu.Unlock()
		return
	}
	s.phase = Draining
	s.report = report.Report{Condition: condition, StartedAt: time.Now().UTC()}
	listeners := s.listeners
	s.listeners = map[net.Listener]struct{}{}
	s.unpause(s.pause.Load(), errNoPause)
	s.mu.Unlock()
	for l := range listeners {
		l.Close()
	}
	s.logPhase(Draining)
	go s.drain()
}

// drain takes the server from Draining to Ended. It alone changes the phase.
func (s *Server) drain() {
	policy := s.policy()
	grace, stopGrace := timer(policy.grace())
	defer stopGrace()
	timeout, stopTimeout := timer(policy.Timeout)
	defer stopTimeout()

	var giveUp <-chan time.Time
	if policy.Timeout != Infinite {
		giveUp = time.After(max(policy.Timeout, policy.Timeout+closeTimeout)) // the sum may wrap
	}

	for open := true; open; {
		if len(s.connections()) == 0 {
			break
		}
		select {
		case <-s.left:
		case <-grace:
			s.setPhase(Quiescing)
			for _, c := range s.connections() {
				c.quiesce(policy.Policy)
			}
		case <-timeout:
			open = false
		case <-s.forced:
			open = false
		}
	}

	s.setPhase(Closing)
	cut := 0
	for _, c := range s.connections() {
		if c.cut() {
			cut++
		}
	}
	close(s.severed)
	s.finish(cut, s.closeExports(giveUp))
}

// timer is time.After for durations that may be Infinite.
func timer(d time.Duration) (<-chan time.Time, func() bool) {
	if d == Infinite {
		return nil, func() bool { return false }
	}
	t := time.NewTimer(d)
	return t.C, t.Stop
}

func (s *Server) connections() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	return all
}

func (s *Server) setPhase(p Phase) {
	s.mu.Lock()
	s.phase = p
	s.mu.Unlock()
	s.logPhase(p)
}

// closeExports waits for the last requests of each volume, then flushes and closes
// it, all at a time: one that hangs must not cost another its flush. It returns
// the first error in their order. It gives up when it is told to, and closeTimeout
// after the server is forced, whatever comes first.
func (s *Server) closeExports(giveUp <-chan time.Time) error {
	results := make([]chan error, len(s.Exports))
	for i := range results {
		results[i] = make(chan error, 1)
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		var all sync.WaitGroup
		for i, e := range s.Exports {
			all.Go(func() {
				e.users.Wait() // no more can come: whoever adds one looks at the phase
				results[i] <- e.close()
			})
		}
		all.Wait()
		s.handlers.Wait()
	}()

	forced := s.forced
	var afterForce <-chan time.Time
	for waiting := true; waiting; {
		select {
		case <-finished:
			waiting = false
		case <-forced:
			forced, afterForce = nil, time.After(closeTimeout)
		case <-afterForce:
			waiting = false
		case <-giveUp:
			waiting = false
		}
	}
	var first error
	for i, e := range s.Exports {
		err := errors.New("not flushed and closed in time: check the storage below it")
		select {
		case err = <-results[i]:
		default:
		}
		if err == nil {
			continue
		}
		s.log.Error("volume not closed cleanly", zap.String("export", e.Name), zap.Error(err))
		if first == nil {
			first = fmt.Errorf("export %q: %w", e.Name, err)
		}
	}
	return first
}

// close flushes and closes the volume. A panic of the Backend is its failure.
func (e *Export) close() (err error) {
	defer func() {
		if p := recover(); p != nil {
			e.panicked(p)
			err = cmp.Or(err, fmt.Errorf("close panicked: %v", p))
		}
	}()
	err = e.flush()
	// From here on nobody finds out the size any more. Who still does may do so
	// for ever, and the volume can't be closed under him.
	select {
	case e.sizing <- struct{}{}:
	case <-time.After(resizeTimeout):
		return errors.Join(err, errStillSizing)
	}
	if cerr := e.Backend.Close(); err == nil {
		err = cerr
	}
	return err
}

// flush flushes the volume, if it can be written to, for no connection.
func (e *Export) flush() error {
	if e.info.ReadOnly {
		return nil
	}
	return e.flusher.Flush(context.WithValue(context.Background(), connKey{}, (*Conn)(nil)))
}

func (s *Server) finish(cut int, err error) {
	var read, written uint64
	for _, e := range s.Exports {
		read += e.bytes[wire.CmdRead].Load()
		written += e.bytes[wire.CmdWrite].Load()
	}
	s.mu.Lock()
	s.phase = Ended
	r := &s.report
	r.FinishedAt = time.Now().UTC()
	r.ClientsCut = cut
	r.BytesRead, r.BytesWritten = read, written
	switch {
	case err != nil:
		r.ExitCode = report.ExitFlushFailed
		r.Error = err.Error()
	case cut > 0:
		r.ExitCode = report.ExitClientsCut
	}
	final := *r
	s.mu.Unlock()
	s.logEnded(final)
	close(s.done)
}
