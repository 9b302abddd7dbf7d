package nbdserver

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := quota{limit: 100}
		in := make(chan string, 9)
		ask := func(name string, n int64) {
			go func() {
				if err := q.acquire(t.Context(), n, func() {}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				in <- name
			}()
			synctest.Wait()
		}
		// want checks who was let in since it was called last.
		want := func(names ...string) {
			t.Helper()
			synctest.Wait()
			for _, name := range names {
				select {
				case got := <-in:
					if got != name {
						t.Fatalf("%s was let in, not %s", got, name)
					}
				default:
					t.Fatalf("%s wasn't let in", name)
				}
			}
			if len(in) > 0 {
				t.Fatalf("%s was let in", <-in)
			}
		}
		ask("a", 60)
		ask("b", 40)
		ask("nothing", 0)
		want("a", "b", "nothing")
		ask("large", 80)
		q.release(40)
		ask("small", 20) // there is enough for it, but the large one comes first
		want()
		q.release(59)
		want("large")
		q.release(1)
		want("small")
		ask("alone", 1000) // more than there is
		q.release(80)
		want()
		q.release(20)
		want("alone")
		q.release(1000)

		ask("all", 100)
		ask("one", 1)
		want("all")
		q.resize(101)
		want("one")
		q.resize(1) // is less than what is held
		ask("another", 1)
		q.release(100)
		want()
		q.release(1)
		want("another")
	})
}

// A canceled waiter leaves nothing behind, and lets those behind it in.
func TestQuotaCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := quota{limit: 100, held: 60}
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 2)
		go func() { result <- q.acquire(ctx, 80, func() {}) }()
		synctest.Wait()
		go func() { result <- q.acquire(t.Context(), 40, func() {}) }()
		synctest.Wait()
		cancel()
		if a, b := <-result, <-result; (a == nil) == (b == nil) {
			t.Errorf("%v, %v", a, b)
		}
		if q.held != 100 || q.waiting.Len() != 0 {
			t.Errorf("%d held, %d wait", q.held, q.waiting.Len())
		}
	})
}

func TestQuotaOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := quota{limit: 1, held: 1}
		start := time.Now()
		var at []time.Duration
		err := q.acquire(t.Context(), 1, func() {
			if at = append(at, time.Since(start)); len(at) == 3 {
				q.release(1)
			}
		})
		if err != nil || len(at) != 3 || at[0] != 10*time.Second || at[1] != 11*time.Second || at[2] != 12*time.Second {
			t.Errorf("%v, %v", at, err)
		}
	})
}

func TestMemoryOfAllClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 64*mib)
		g := gate(s)
		g.readGate = make(chan struct{})
		setLimits(t, s, Limits{MaxMemory: 64 * mib})
		var all []*rawClient
		for range 8 {
			c := connect(t, s)
			c.begin(false)
			c.request(0, wire.CmdRead, 1, 0, 16*mib)
			synctest.Wait() // first come, first served
			all = append(all, c)
		}
		synctest.Wait()
		if n := s.inFlight.Load(); n != 4 {
			t.Errorf("%d requests of 16 MiB in flight", n)
		}
		setLimits(t, s, Limits{MaxMemory: 96 * mib})
		synctest.Wait()
		if n := s.inFlight.Load(); n != 6 {
			t.Errorf("%d requests of 16 MiB in flight after there is more memory", n)
		}
		// What needs none doesn't wait.
		c := connect(t, s)
		c.begin(false)
		c.request(0, wire.CmdFlush, 1, 0, 0)
		c.must(1, 0)
		close(g.readGate)
		for _, c := range all {
			c.must(1, 0)
			c.get(16 * mib)
		}
		closeAll(append(all, c)...)
		synctest.Wait()
		if s.memory.held != 0 || s.stalled.Load() != 0 {
			t.Errorf("%d bytes are held, %d connections stalled", s.memory.held, s.stalled.Load())
		}
	})
}

// A buffer is as long as the next power of two.
func TestMemoryIsThatOfBuffers(t *testing.T) {
	for n, want := range map[uint64]int64{0: 0, 1: 4096, 4096: 4096, 4097: 8192, 17 * mib: 32 * mib, wire.MaxBlock: wire.MaxBlock} {
		got := memoryOf(wire.Request{Command: wire.CmdRead, Length: n})
		if got != want || n > 0 && int64(cap(getBuffer(int(n)))) != want {
			t.Errorf("%d bytes take %d", n, got)
		}
	}
	if n := memoryOf(wire.Request{Command: wire.CmdTrim, Length: 4096}); n != 0 {
		t.Errorf("a trim takes %d", n)
	}
}

// However many extents clients ask for without reading any, the lists take no
// more memory than they may.
func TestMemoryOfExtents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 64*mib)
		gate := make(chan struct{})
		record(s).extents = func(_, _ uint64, max int) ([]backend.Extent, error) {
			if max > 1 {
				<-gate
			}
			all := make([]backend.Extent, maxExtents)
			for i := range all {
				all[i] = backend.Extent{Length: 4096, Zero: i%2 == 0}
			}
			return all, nil
		}
		setLimits(t, s, Limits{MaxMemory: wire.MaxBlock})
		const requests = maxRequests - 1
		var all []*rawClient
		for range 4 {
			c := connect(t, s)
			c.begin(true)
			go func() {
				for i := range uint64(requests) {
					c.request(0, wire.CmdBlockStatus, i, 0, 64*mib)
				}
			}()
			all = append(all, c)
		}
		synctest.Wait()
		if n := s.inFlight.Load(); n != wire.MaxBlock/extentsMemory {
			t.Errorf("%d requests for %d extents in flight", n, maxExtents)
		}
		// One extent takes nothing, and doesn't wait.
		one := connect(t, s)
		one.begin(true)
		one.request(wire.FlagReqOne, wire.CmdBlockStatus, 7, 0, 64*mib)
		if _, typ, cookie, p := one.chunk(); typ != 5 || cookie != 7 || len(p) != 4+8 {
			t.Errorf("chunk of type %d with %d bytes for request %d", typ, len(p), cookie)
		}
		close(gate)
		// All at once: a client whose turn comes later would stand still, with
		// the memory that another one waits for.
		var reading sync.WaitGroup
		for _, c := range all {
			reading.Go(func() {
				for range requests {
					if _, _, _, p := c.chunk(); len(p) != 4+8*maxExtents {
						t.Errorf("%d bytes", len(p))
					}
				}
			})
		}
		reading.Wait()
		closeAll(append(all, one)...)
	})
}

func TestMaxConnectionMemoryChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 64*mib)
		g := gate(s)
		g.readGate = make(chan struct{})
		c := connect(t, s)
		c.begin(false)
		go func() {
			for range 8 {
				c.request(0, wire.CmdRead, 1, 0, 16*mib)
			}
		}()
		synctest.Wait()
		if n := s.inFlight.Load(); n != 4 {
			t.Errorf("%d requests of 16 MiB in flight", n)
		}
		setLimits(t, s, Limits{MaxConnectionMemory: 96 * mib})
		synctest.Wait()
		if n := s.inFlight.Load(); n != 6 {
			t.Errorf("%d requests of 16 MiB in flight after there is more memory", n)
		}
		close(g.readGate)
		for range 8 {
			c.must(1, 0)
			c.get(16 * mib)
		}
		c.Close()
	})
}
