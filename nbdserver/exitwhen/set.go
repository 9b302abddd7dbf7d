package exitwhen

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Event says which condition ended the server.
type Event struct {
	// Condition is the condition's String.
	Condition string
	// At is when it was noticed.
	At time.Time
}

// Set is any number of conditions, of which any one ends the server. The first
// that happens is the set's event for good: Check and Watch return it from then
// on. An empty set never has one.
//
// Check and Watch must not run at the same time as one another, and not after
// Close.
type Set struct {
	log        *zap.Logger
	conditions []Condition
	running    sync.WaitGroup // checks and watchers

	mu    sync.Mutex
	event *Event // nil until the first condition has happened
}

// NewSet makes a set of the conditions, which the set closes when it is closed.
// A nil log discards what is logged.
func NewSet(log *zap.Logger, conditions ...Condition) *Set {
	if log == nil {
		log = zap.NewNop()
	}
	return &Set{log: log, conditions: conditions}
}

// Check looks at the conditions in order, once, and returns the event of the
// first that has happened already, if there is one. A server that finds one at
// start exits without serving. Check runs the scripts among the conditions, so
// it may take as long as their timeouts. The error is ctx's.
func (s *Set) Check(ctx context.Context) (Event, bool, error) {
	s.running.Add(1)
	defer s.running.Done()
	if e, ok := s.latched(); ok {
		return e, true, nil
	}
	for _, c := range s.conditions {
		happened, err := c.Check(ctx)
		switch {
		case happened:
			return s.latch(c), true, nil
		case ctx.Err() != nil:
			return Event{}, false, ctx.Err()
		case err != nil:
			s.log.Error("an exit condition can't be checked", zap.Stringer("condition", c), zap.Error(err))
		}
	}
	return Event{}, false, nil
}

// Watch waits for the first condition to happen and returns its event, or ctx's
// error if ctx ends first. It watches all conditions at once. When it returns the
// others are told to stop, and a script that is running is killed, but they are
// not waited for: one that hangs, on a network file system that doesn't answer,
// must not hold up what another has noticed. A condition that can't be watched
// any longer is logged, and the others are watched on.
func (s *Set) Watch(ctx context.Context) (Event, error) {
	if e, ok := s.latched(); ok {
		return e, nil
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	for _, c := range s.conditions {
		s.running.Go(func() {
			err := c.Watch(watching)
			switch {
			case err == nil:
				s.latch(c)
				stop()
			case watching.Err() == nil:
				s.log.Error("an exit condition can't be watched any longer", zap.Stringer("condition", c), zap.Error(err))
			}
		})
	}
	<-watching.Done()
	if e, ok := s.latched(); ok {
		return e, nil
	}
	return Event{}, ctx.Err()
}

// closeTimeout is how long Close waits for what runs. Most of it stops at once;
// a script takes pipeDelay at most.
const closeTimeout = time.Second

// Close waits until nothing is checked or watched any more, which the contexts
// of Check and Watch must have ended, and closes all conditions. Those that hang
// it leaves as they are after a second, and says so.
func (s *Set) Close() error {
	stopped := make(chan struct{})
	go func() {
		s.running.Wait()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-time.After(closeTimeout):
		return errors.New("an exit condition hangs; its descriptors stay open")
	}
	var errs []error
	for _, c := range s.conditions {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// latch makes c's event the set's, unless there is one already, and returns the
// set's.
func (s *Set) latch(c Condition) Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.event == nil {
		s.event = &Event{Condition: c.String(), At: time.Now()}
	}
	return *s.event
}

func (s *Set) latched() (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.event == nil {
		return Event{}, false
	}
	return *s.event, true
}
