package nbdserver

import (
	"context"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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

// scarce is a server whose memory one large request takes as a whole, with a
// client that holds it by a read whose answer it doesn't take, and one that is
// connected.
func scarce(t *testing.T) (s *Server, hog, c *rawClient) {
	t.Helper()
	s = newMemory(t, 64*mib)
	setLimits(t, s, Limits{MaxMemory: wire.MaxBlock})
	hog, c = connect(t, s), connect(t, s)
	hog.begin(false)
	c.begin(false)
	hog.request(0, wire.CmdRead, 1, 0, wire.MaxBlock)
	synctest.Wait()
	return s, hog, c
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

// A client that stands still is let alone for as long as nobody wants what it
// holds, and then for the time that somebody can be expected to wait.
func TestStalledReaderIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, hog, c := scarce(t)
		time.Sleep(100 * time.Hour)
		if n := len(s.connections()); n != 2 {
			t.Fatalf("%d connections are left", n)
		}
		about(t, "the wait", c.reads(4096), stallTimeout)
		hog.eof()
		if n := s.stalled.Load(); n != 1 {
			t.Errorf("%d stalled", n)
		}
		c.Close()
	})
}

func TestStalledWriterIsClosed(t *testing.T) {
	for name, trickle := range map[string]bool{"silent": false, "a byte each second": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 64*mib)
				setLimits(t, s, Limits{MaxMemory: wire.MaxBlock})
				hog, c := connect(t, s), connect(t, s)
				hog.begin(false)
				c.begin(false)
				hog.request(0, wire.CmdWrite, 1, 0, wire.MaxBlock)
				var trickling sync.WaitGroup
				defer trickling.Wait()
				if trickle {
					trickling.Go(func() {
						for {
							if _, err := hog.Write([]byte{1}); err != nil {
								return
							}
							time.Sleep(time.Second)
						}
					})
				}
				time.Sleep(time.Hour)
				about(t, "the wait", c.reads(4096), stallTimeout)
				hog.eof()
				c.Close()
			})
		})
	}
}

// Slow is not stalled: who moves a piece now and then is waited for.
func TestSlowClientIsNotClosed(t *testing.T) {
	const pause = 9 * time.Second
	synctest.Test(t, func(t *testing.T) {
		s, hog, c := scarce(t)
		took := make(chan time.Duration)
		go func() { took <- c.reads(4096) }()
		hog.must(1, 0)
		for range wire.MaxBlock / piece {
			time.Sleep(pause)
			hog.get(piece)
		}
		about(t, "behind a slow reader", <-took, wire.MaxBlock/piece*pause)

		hog.request(0, wire.CmdWrite, 1, 0, wire.MaxBlock)
		synctest.Wait()
		go func() { took <- c.reads(4096) }()
		for range wire.MaxBlock / piece {
			time.Sleep(pause)
			hog.put(make([]byte, piece))
		}
		hog.must(1, 0)
		about(t, "behind a slow writer", <-took, wire.MaxBlock/piece*pause)
		if n := s.stalled.Load(); n != 0 {
			t.Errorf("%d stalled", n)
		}
		closeAll(hog, c)
	})
}

// That the storage is slow is no client's fault.
func TestSlowStorageClosesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 64*mib)
		setLimits(t, s, Limits{MaxMemory: wire.MaxBlock})
		g := gate(s)
		g.readGate = make(chan struct{})
		one, two := connect(t, s), connect(t, s)
		for _, c := range []*rawClient{one, two} {
			c.begin(false)
			c.request(0, wire.CmdRead, 1, 0, wire.MaxBlock)
			synctest.Wait() // first come, first served
		}
		time.Sleep(time.Hour)
		close(g.readGate)
		for _, c := range []*rawClient{one, two} {
			c.must(1, 0)
			c.get(wire.MaxBlock)
			c.Close()
		}
	})
}

// One stalled connection at a time is closed: it may be enough.
func TestNoMoreThanNeededIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 64*mib)
		setLimits(t, s, Limits{MaxMemory: 64 * mib})
		var hogs []*rawClient
		for range 4 {
			c := connect(t, s)
			c.begin(false)
			c.request(0, wire.CmdRead, 1, 0, 16*mib)
			hogs = append(hogs, c)
			time.Sleep(time.Hour)
		}
		done := make(chan time.Duration)
		for range 8 {
			c := connect(t, s)
			c.begin(false)
			go func() { done <- c.reads(mib); c.Close() }()
		}
		for range 8 {
			about(t, "the wait", <-done, stallTimeout)
		}
		hogs[0].eof() // who has stalled for longest
		if n := s.stalled.Load(); n != 1 {
			t.Errorf("%d stalled", n)
		}
		closeAll(hogs...)
	})
}

// Who waits for its own memory only is in nobody's way.
func TestNobodyIsClosedForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 64*mib)
		setLimits(t, s, Limits{MaxMemory: wire.MaxBlock})
		c := connect(t, s)
		c.begin(false)
		for range 2 {
			c.request(0, wire.CmdRead, 1, 0, wire.MaxBlock)
		}
		time.Sleep(time.Hour)
		for range 2 {
			c.must(1, 0)
			c.get(wire.MaxBlock)
		}
		c.Close()
	})
}

// Another one is closed a second later, however many wait.
func TestOneIsClosedAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 64*mib)
		setLimits(t, s, Limits{MaxMemory: 64 * mib})
		var all []*rawClient
		for range 6 {
			c := connect(t, s)
			c.begin(false)
			all = append(all, c)
		}
		for _, hog := range all[:4] {
			hog.request(0, wire.CmdRead, 1, 0, 16*mib)
			synctest.Wait()
		}
		done := make(chan time.Duration)
		go func() { done <- all[4].reads(32 * mib) }() // needs what two of them hold
		time.Sleep(stallCheck / 2)
		go func() { all[5].reads(4096); done <- 0 }()
		about(t, "the wait", max(<-done, <-done), stallTimeout+stallCheck)
		if n := s.stalled.Load(); n != 2 {
			t.Errorf("%d stalled", n)
		}
		closeAll(all...)
	})
}

// Clients that write and don't read meanwhile hold all memory, and each waits
// for that of the other: that ends, too.
func TestCircleOfWaitingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 64*mib)
		setLimits(t, s, Limits{MaxMemory: 32 * mib})
		one, two := connect(t, s), connect(t, s)
		for _, c := range []*rawClient{one, two} {
			c.begin(false)
		}
		for i := range 2 { // the first read is answered, and stalls; the second waits
			for _, c := range []*rawClient{one, two} {
				c.request(0, wire.CmdRead, uint64(i), 0, 16*mib)
			}
			synctest.Wait()
		}
		served := make(chan bool)
		for _, c := range []*rawClient{one, two} {
			go func() {
				// Nothing reads this, for as long as the reads wait.
				_, err := c.Write(pack(uint32(0x25609513), uint16(0), uint16(wire.CmdFlush), uint64(2), uint64(0), uint32(0)))
				if err == nil {
					_, err = io.CopyN(io.Discard, c, 3*16+32*mib)
				}
				c.Close()
				served <- err == nil
			}()
		}
		start := time.Now()
		if a, b := <-served, <-served; a == b {
			t.Errorf("served: %v, %v", a, b)
		}
		about(t, "the circle", time.Since(start), stallTimeout)
		if n := s.stalled.Load(); n != 1 {
			t.Errorf("%d stalled", n)
		}
	})
}
