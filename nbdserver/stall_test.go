package nbdserver

import (
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

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

// Whoever takes none of several replies is closed as well: the handlers that wait
// for their turn to send don't hide that time passes.
func TestStalledReaderOfManyIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 64*mib)
		setLimits(t, s, Limits{MaxMemory: wire.MaxBlock})
		hog, c := connect(t, s), connect(t, s)
		hog.begin(false)
		c.begin(false)
		const reads = 4
		for i := range uint64(reads) {
			hog.request(0, wire.CmdRead, i, 0, wire.MaxBlock/reads)
		}
		time.Sleep(time.Hour)
		about(t, "the wait", c.reads(4096), stallTimeout)
		hog.eof()
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

// Of those that have stalled it is the one that holds the most: to close another
// would help nobody.
func TestWhoHoldsMostIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 64*mib)
		setLimits(t, s, Limits{MaxMemory: 48 * mib})
		var paused []*rawClient
		for range 3 {
			c := connect(t, s)
			c.begin(false)
			c.request(0, wire.CmdRead, 1, 0, 4096)
			time.Sleep(time.Hour)
			paused = append(paused, c)
		}
		hog, c := connect(t, s), connect(t, s)
		hog.begin(false)
		c.begin(false)
		hog.request(0, wire.CmdRead, 1, 0, wire.MaxBlock)
		synctest.Wait()
		about(t, "the wait", c.reads(wire.MaxBlock), stallTimeout)
		hog.eof()
		for _, p := range paused {
			p.must(1, 0)
			p.get(4096)
		}
		closeAll(append(paused, c)...)
	})
}

// The clock of the wall may be set at any time: nobody has stalled by that.
func TestProgressIsOnTheMonotonicClock(t *testing.T) {
	s := newMemory(t, mib)
	c := connect(t, s)
	defer c.Close()
	// It is in the text of a time that has it ("Monotonic Clocks" in package time).
	if since := s.connections()[0].since.String(); !strings.Contains(since, " m=") {
		t.Errorf("%v has no monotonic clock", since)
	}
}

// sizes notes how long each write is.
type sizes struct {
	net.Conn
	mu  sync.Mutex
	all []int
}

func (s *sizes) Write(p []byte) (int, error) {
	s.mu.Lock()
	s.all = append(s.all, len(p))
	s.mu.Unlock()
	return s.Conn.Write(p)
}

// A reply goes out in pieces, and none of them is a short rest.
func TestPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, mib)
		s.init()
		a, b := net.Pipe()
		w := &sizes{Conn: b}
		s.start(w)
		c := &rawClient{t, a}
		c.begin(false)
		for length, want := range map[uint32][]int{
			4096:           {16, 4096},
			piece:          {16, piece},
			2 * piece:      {16, piece - 16, piece + 16},
			3*piece - 4096: {16, piece - 16, piece, piece - 4096 + 16},
		} {
			synctest.Wait()
			w.all = nil
			c.reads(length)
			synctest.Wait()
			if !slices.Equal(w.all, want) {
				t.Errorf("a read of %d bytes is answered by %v, not %v", length, w.all, want)
			}
		}
		c.Close()
	})
}
