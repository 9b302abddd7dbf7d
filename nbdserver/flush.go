package nbdserver

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// flusher makes one flush of a Backend serve everybody who waits for one
// (group commit). A caller's flush starts after its call, so that it covers all
// writes that were completed before the call, whichever connection they came
// from. At most one flush is under way.
//
// After a flush has failed nobody knows which writes are lost, and the kernel
// reports such an error only once. So the failure sticks: every later flush
// fails with it.
type flusher struct {
	flush    func(context.Context) error
	panicked func(p any)   // is told of a panic of flush
	failures atomic.Uint64 // flushes, those that failed because an earlier one had among them

	mu      sync.Mutex
	running bool
	next    *flushBatch // collects callers; not started yet
	failed  error
}

type flushBatch struct {
	ctx  context.Context // of who came first, but never canceled
	done chan struct{}   // closed when err is set
	err  error
}

// Flush returns when everything that was completed before the call is on
// stable storage, or with the first failure that the Backend ever had. It
// isn't cut short by a canceled context: others wait for the same flush.
func (f *flusher) Flush(ctx context.Context) error {
	f.mu.Lock()
	if f.next == nil {
		f.next = &flushBatch{ctx: context.WithoutCancel(ctx), done: make(chan struct{})}
	}
	b := f.next
	if f.running {
		f.mu.Unlock()
		<-b.done
		return b.err
	}
	f.running = true
	f.mu.Unlock()
	f.run()
	return b.err
}

// run flushes for the batch that has gathered, and leaves those who came
// meanwhile to a goroutine, so that its caller waits for its own flush only.
func (f *flusher) run() {
	f.mu.Lock()
	b := f.next
	f.next = nil
	err := f.failed
	f.mu.Unlock()

	if err == nil {
		err = f.guarded(b.ctx)
	}

	if err != nil {
		f.failures.Add(1)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil && f.failed == nil {
		f.failed = err
	}
	b.err = err
	close(b.done)
	if f.next != nil {
		go f.run()
	} else {
		f.running = false
	}
}

// guarded turns a panic of the Backend into an error: the others of the batch
// must not wait for ever, and a flush that ended so is a failed one.
func (f *flusher) guarded(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			f.panicked(p)
			err = fmt.Errorf("flush panicked: %v", p)
		}
	}()
	return f.flush(ctx)
}
