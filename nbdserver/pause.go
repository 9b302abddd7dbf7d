package nbdserver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
)

// MaxPause is the longest pause. A client that waits for longer has given up, or
// whoever forgot to resume won't remember.
const MaxPause = time.Hour

// Why a pause is over, where it isn't a context or a flush.
var (
	errResumed   = errors.New("resumed")
	errPauseTime = errors.New("its time is over: resume earlier, or give it more")
	errNoPause   = errors.New("the server drains: its clients must be able to finish")
)

// pause is one pause, from its beginning to its end.
type pause struct {
	began    time.Time
	timer    *time.Timer   // ends it
	complete chan struct{} // closed when nothing is under way and all is flushed
	over     chan struct{} // closed when requests go on

	// Guarded by Server.mu; why is fixed when over is closed.
	until time.Time
	why   error
}

// Pause keeps requests from the volumes: it lets none begin any more, waits
// until those that have begun are done, and flushes the volumes that aren't
// read-only. When it returns nil, what lies on the storage is what the clients
// have written up to one moment, with every write that was acknowledged, and it
// stays so until Resume, or until atMost is over, from the call on: more than 0
// and at most MaxPause. Only the size of a backend.Resizer is still looked at.
//
// Meanwhile clients stay connected, and newcomers can connect; what they ask for
// waits in the socket. Only what had been begun when the pause came keeps its
// memory: if its payload is still on its way, it waits for the end of the pause,
// and not the pause for it. Neither does the pause wait for clients to take
// their replies.
//
// If ctx ends first, or atMost, if a flush fails, or if the server drains,
// requests go on and the error says why; a flush that failed makes every later
// one fail too. A Pause that finds one under way joins it, and prolongs it if its
// own atMost reaches further; both fail together. A Backend must not pause the server during a call,
// which would wait for that call to return; with the context that it was given
// the error says so.
func (s *Server) Pause(ctx context.Context, atMost time.Duration) error {
	switch {
	case ctx.Value(connKey{}) != nil:
		return errors.New("not paused: a volume asks for it during a call, and that would have to return first")
	case atMost <= 0 || atMost > MaxPause:
		return fmt.Errorf("not paused: for %v: a pause is longer than 0 and at most %v", atMost, MaxPause)
	case ctx.Err() != nil:
		return fmt.Errorf("not paused: %w", ctx.Err())
	}
	s.init()
	s.mu.Lock()
	if s.phase != Serving {
		s.mu.Unlock()
		return fmt.Errorf("not paused: %w", errNoPause)
	}
	now := time.Now()
	p := s.pause.Load()
	if p == nil {
		p = &pause{began: now, complete: make(chan struct{}), over: make(chan struct{})}
		p.timer = time.AfterFunc(atMost, func() { s.expire(p) })
		s.pause.Store(p)
		s.handlers.Go(func() { s.settle(p) }) // before the server has ended
	}
	if until := now.Add(atMost); until.After(p.until) {
		p.until = until
		p.timer.Reset(atMost)
	}
	s.mu.Unlock()

	select {
	case <-p.complete:
	case <-p.over:
	case <-ctx.Done():
		s.mu.Lock()
		s.unpause(p, fmt.Errorf("whoever asked for it has given up: %w", ctx.Err()))
		s.mu.Unlock()
	}
	if isClosed(p.over) {
		return fmt.Errorf("not paused: %w", p.why)
	}
	s.log.Info("paused", zap.Duration("after", time.Since(now)), zap.Duration("atMost", atMost))
	return nil
}

// Resume ends a pause. It tells whether the server was paused up to now: if not,
// the pause has ended before, by itself or because of a drain, and what was
// copied since is not of one moment; or it wasn't complete yet, and Pause fails.
// It may be called by a Backend too.
func (s *Server) Resume() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pause.Load()
	s.unpause(p, errResumed)
	return p != nil && isClosed(p.complete)
}

// unpause ends a pause, nil for none, unless it is over already. s.mu is held.
func (s *Server) unpause(p *pause, why error) {
	if p == nil || s.pause.Load() != p {
		return
	}
	p.timer.Stop()
	p.why = why
	// Who couldn't move because of the pause has the full time for it now.
	s.stallChecked = time.Now().Add(stallTimeout - stallCheck)
	s.pause.Store(nil)
	close(p.over)
}

// expire ends a pause whose time is over, unless it was prolonged just now.
func (s *Server) expire(p *pause) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !time.Now().Before(p.until) {
		s.unpause(p, errPauseTime)
	}
}

// settle completes a pause and keeps it up until it is over. It takes all the
// places for calls into Backends: with the last one no call is under way, and
// no other can begin, but a flush that was asked for before, which then finds
// nothing to flush.
func (s *Server) settle(p *pause) {
	var taken []*Export // one for each place
	defer func() {
		for _, e := range taken {
			<-e.work
		}
		level := zap.WarnLevel
		if errors.Is(p.why, errResumed) {
			level = zap.InfoLevel
		}
		s.log.Log(level, "pause is over", zap.NamedError("why", p.why), zap.Bool("complete", isClosed(p.complete)),
			zap.Duration("after", time.Since(p.began)))
	}()
	for _, e := range s.Exports {
		for range cap(e.work) {
			select {
			case e.work <- struct{}{}:
				taken = append(taken, e)
			case <-p.over:
				return
			}
		}
	}
	flushed := make(chan error, 1)
	s.handlers.Go(func() { flushed <- s.flushAll() }) // it may hang, and the requests must go on
	select {
	case err := <-flushed:
		s.mu.Lock()
		if err != nil {
			s.unpause(p, err)
		}
		if !isClosed(p.over) {
			close(p.complete)
		}
		s.mu.Unlock()
		<-p.over
	case <-p.over:
	}
}

// flushAll flushes the volumes, all at a time, unless they are about to be closed.
func (s *Server) flushAll() error {
	s.mu.Lock()
	if s.phase >= Closing {
		s.mu.Unlock()
		return errNoPause
	}
	for _, e := range s.Exports {
		e.users.Add(1)
	}
	s.mu.Unlock()
	errs := make([]error, len(s.Exports))
	var all sync.WaitGroup
	for i, e := range s.Exports {
		all.Go(func() {
			defer e.users.Done()
			if err := e.flush(); err != nil {
				errs[i] = fmt.Errorf("export %q: flush: %w", e.Name, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// awaitResume waits for the end of a pause. Nothing more is read from the client
// meanwhile, and its request holds nothing.
func (c *Conn) awaitResume() error {
	for p := c.srv.pause.Load(); p != nil; p = c.srv.pause.Load() {
		select {
		case <-p.over:
		case <-c.ctx.Done():
			return errGone
		}
	}
	return nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
