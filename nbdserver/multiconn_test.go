package nbdserver

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// volatile is a disk with a write cache: what was written can be read at once,
// and is gone after a power cut unless a flush that began later has completed.
// Blocks are of 512 bytes, and written as such.
type volatile struct {
	backend.Backend // what is read
	mu              sync.Mutex
	cache, stable   map[uint64][]byte // blocks by offset
	// flushing is told of each flush that has looked at the cache and waits for
	// the gate; nil: flushes don't wait.
	flushing, gate chan struct{}
}

func (v *volatile) WriteAt(ctx context.Context, p []byte, off uint64) error {
	if err := v.Backend.WriteAt(ctx, p, off); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cache[off] = bytes.Clone(p)
	return nil
}

func (v *volatile) Flush(context.Context) error {
	v.mu.Lock()
	taken := maps.Clone(v.cache)
	v.mu.Unlock()
	if v.gate != nil {
		v.flushing <- struct{}{}
		<-v.gate
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	maps.Copy(v.stable, taken)
	return nil
}

// survives tells which of the blocks a power cut would leave as they were
// written.
func (v *volatile) survives(off uint64, want []byte) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return bytes.Equal(v.stable[off], want)
}

func newVolatile(t *testing.T) (*Server, *volatile) {
	t.Helper()
	s := newMemory(t, 1<<20)
	v := &volatile{Backend: s.Exports[0].Backend, cache: map[uint64][]byte{}, stable: map[uint64][]byte{}}
	s.Exports[0].Backend = v
	return s, v
}

// block is the content of block i.
func block(i uint64) []byte { return bytes.Repeat([]byte{byte(i + 1)}, 512) }

// write writes block i and waits until that is acknowledged.
func (c *rawClient) write(i uint64, flags wire.CommandFlags) {
	c.t.Helper()
	c.request(flags, wire.CmdWrite, i, i*512, 512, block(i))
	c.must(i, 0)
}

// TestFlushCoversAllConnections is what NBD_FLAG_CAN_MULTI_CONN promises.
func TestFlushCoversAllConnections(t *testing.T) {
	s, v := newVolatile(t)
	addr := listen(t, s)
	writers := []*rawClient{dial(t, addr), dial(t, addr), dial(t, addr)}
	for _, c := range writers {
		c.begin(false)
	}
	other := dial(t, addr)
	other.begin(false)
	survivors := func(from, to uint64) (n int) {
		for i := from; i < to; i++ {
			if v.survives(i*512, block(i)) {
				n++
			}
		}
		return n
	}
	for i := range uint64(60) {
		writers[i%3].write(i, 0)
	}
	if n := survivors(0, 60); n != 0 {
		t.Fatalf("%d blocks are stable before any flush: this disk shows nothing", n)
	}
	// A client that is gone has written too.
	writers[2].request(0, wire.CmdDisc, 0, 0, 0)
	writers[2].eof()
	other.request(0, wire.CmdFlush, 100, 0, 0)
	other.must(100, 0)
	if n := survivors(0, 60); n != 60 {
		t.Errorf("after a flush on another connection %d of 60 blocks would survive a power cut", n)
	}
	writers[0].write(60, 0)
	writers[1].write(61, wire.FlagFUA)
	if !v.survives(61*512, block(61)) {
		t.Error("a block that was written with FUA would not survive a power cut")
	}
}

// TestSlowFlushStopsNobodyElse: those who wait for a flush take no place that
// reads need.
func TestSlowFlushStopsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, v := newVolatile(t)
		v.flushing, v.gate = make(chan struct{}, 1<<10), make(chan struct{})
		const requests = maxRequests - 1
		var waiting []*rawClient
		for range maxWork/requests + 1 {
			c := connect(t, s)
			c.begin(false)
			for i := range uint64(requests) {
				c.request(0, wire.CmdFlush, i, 0, 0)
			}
			waiting = append(waiting, c)
		}
		synctest.Wait()
		other := connect(t, s)
		other.begin(false)
		other.request(0, wire.CmdRead, 1, 0, 512)
		synctest.Wait()
		if n := s.Exports[0].requests[wire.CmdRead][0].Load(); n != 1 {
			t.Errorf("a read waits for %d flushes", s.inFlight.Load()-1)
		}
		close(v.gate)
		other.must(1, 0)
		other.get(512)
		for _, c := range waiting {
			for range requests {
				if _, e := c.simple(); e != 0 {
					t.Fatal(e)
				}
			}
		}
		closeAll(append(waiting, other)...)
	})
}

// TestFlushUnderWayIsNotShared: a flush that has begun doesn't cover what
// completes meanwhile, so that who asks then gets one of his own.
func TestFlushUnderWayIsNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, v := newVolatile(t)
		v.flushing, v.gate = make(chan struct{}), make(chan struct{})
		writer, early, late := connect(t, s), connect(t, s), connect(t, s)
		for _, c := range []*rawClient{writer, early, late} {
			c.begin(false)
			defer c.Close()
		}
		writer.write(0, 0)
		early.request(0, wire.CmdFlush, 1, 0, 0)
		<-v.flushing
		writer.write(1, 0)
		late.request(0, wire.CmdFlush, 2, 0, 0)
		synctest.Wait()
		v.gate <- struct{}{}
		early.must(1, 0)
		if !v.survives(0, block(0)) || v.survives(512, block(1)) {
			t.Error("the first flush doesn't cover just the first block")
		}
		<-v.flushing
		v.gate <- struct{}{}
		late.must(2, 0)
		if !v.survives(512, block(1)) {
			t.Error("a block that was acknowledged before a flush would not survive a power cut")
		}
		close(v.gate)
	})
}

// TestFlushUnderLoad: at whatever moment the power is cut, what was acknowledged
// before an acknowledged flush is there.
func TestFlushUnderLoad(t *testing.T) {
	s, v := newVolatile(t)
	addr := listen(t, s)
	const writers, blocks = 6, 200
	var mu sync.Mutex
	var acknowledged []uint64
	var work, flushes sync.WaitGroup
	for w := range uint64(writers) {
		c := dial(t, addr)
		c.begin(false)
		work.Go(func() {
			for i := range uint64(blocks) {
				c.request(0, wire.CmdWrite, i, (w*blocks+i)*512, 512, block(w*blocks+i))
				if _, e := c.simple(); e != 0 {
					t.Error(e)
				}
				mu.Lock()
				acknowledged = append(acknowledged, w*blocks+i)
				mu.Unlock()
			}
		})
	}
	over := make(chan struct{})
	for range 3 {
		c := dial(t, addr)
		c.begin(false)
		flushes.Go(func() {
			for last := false; !last; {
				select {
				case <-over:
					last = true
				default:
				}
				mu.Lock()
				before := slices.Clone(acknowledged)
				mu.Unlock()
				c.request(0, wire.CmdFlush, 1, 0, 0)
				if _, e := c.simple(); e != 0 {
					t.Error(e)
				}
				for _, i := range before {
					if !v.survives(i*512, block(i)) {
						t.Errorf("block %d would not survive a power cut", i)
						return
					}
				}
			}
		})
	}
	work.Wait()
	close(over)
	flushes.Wait()
}
