package nbdserver

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// quota is a number of bytes that can be held at a time. Who wants more than is
// left waits in turn, so that large requests get their share among small ones;
// what is larger than the whole quota is let in alone.
type quota struct {
	mu      sync.Mutex
	limit   int64
	held    int64
	waiting list.List // of *claim
}

// claim is somebody who waits for n bytes.
type claim struct {
	n       int64
	granted chan struct{} // closed when they are held
}

// acquire takes n bytes when they are there; 0 are always there. Its error is
// ctx's. After stallTimeout, and each stallCheck from then on, it calls overdue.
func (q *quota) acquire(ctx context.Context, n int64, overdue func()) error {
	if n == 0 {
		return nil
	}
	q.mu.Lock()
	if q.waiting.Len() == 0 && q.fits(n) {
		q.held += n
		q.mu.Unlock()
		return nil
	}
	c := &claim{n, make(chan struct{})}
	place := q.waiting.PushBack(c)
	q.mu.Unlock()
	t := time.NewTimer(stallTimeout)
	defer t.Stop()
	for {
		select {
		case <-c.granted:
			return nil
		case <-t.C:
			overdue()
			t.Reset(stallCheck)
		case <-ctx.Done():
			q.mu.Lock()
			defer q.mu.Unlock()
			select {
			case <-c.granted:
				q.held -= n
			default:
				q.waiting.Remove(place)
			}
			q.grant() // to those who waited behind it
			return ctx.Err()
		}
	}
}

func (q *quota) release(n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held -= n
	q.grant()
}

// resize changes the limit. What is held beyond it is given back in time.
func (q *quota) resize(limit int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limit = limit
	q.grant()
}

func (q *quota) fits(n int64) bool { return q.held == 0 || q.held+n <= q.limit }

// grant lets in those whose turn it is. q.mu is held.
func (q *quota) grant() {
	for place := q.waiting.Front(); place != nil; place = q.waiting.Front() {
		c := place.Value.(*claim)
		if !q.fits(c.n) {
			return
		}
		q.waiting.Remove(place)
		q.held += c.n
		close(c.granted)
	}
}

// hold takes the memory for a request's payload: from what its connection may
// hold, then from what all may hold together.
//
// No circle of waiting can last. Whoever waits here has no memory yet for the
// request that it waits for; whoever has it waits for no more memory, but for the
// Backend, which waits for nobody, and for its client. A client may well wait for
// another one that waits here, or for its own connection, which isn't read from
// meanwhile; then nothing moves on the connection that holds the memory, and
// closeStalled ends it.
func (c *Conn) hold(r wire.Request) error {
	n := memoryOf(r)
	if err := c.memory.acquire(c.ctx, n, func() {}); err != nil {
		return errGone
	}
	if err := c.srv.memory.acquire(c.ctx, n, func() { c.srv.closeStalled(c) }); err != nil {
		c.memory.release(n)
		return errGone
	}
	c.held.Add(n)
	return nil
}

// letGo gives the memory of a request back.
func (c *Conn) letGo(r wire.Request) {
	n := memoryOf(r)
	c.held.Add(-n)
	c.srv.memory.release(n)
	c.memory.release(n)
}

// extentsMemory is what a block status request of many extents takes: the list,
// as the Backend makes it and then as it is sent.
const extentsMemory = 64 * maxExtents

// memoryOf is the memory that a request needs: the buffer for its payload, or
// the list of extents.
func memoryOf(r wire.Request) int64 {
	switch {
	case payload(r) != 0:
		return int64(bufferSize(int(payload(r))))
	case r.Command == wire.CmdBlockStatus && r.Flags&wire.FlagReqOne == 0:
		return extentsMemory
	}
	return 0
}
