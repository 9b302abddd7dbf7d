package interop

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// hostile are clients that don't mean it. Each gets a fresh connection and has
// done its worst when it returns; then the connection is closed.
var hostile = map[string]func(net.Conn){
	"says nothing": func(net.Conn) {},
	"garbage": func(c net.Conn) {
		c.Write(random(1, 4096))
		io.Copy(io.Discard, c)
	},
	"wrong magic": func(c net.Conn) {
		c.Write(append(pack(uint32(3)), "IHAVENOT\x00\x00\x00\x07\x00\x00\x00\x00"...))
		io.Copy(io.Discard, c)
	},
	"half an option": func(c net.Conn) { c.Write(append(pack(uint32(3)), "IHAVEOPT\x00\x00"...)) },
	"an option of 4 GiB": func(c net.Conn) {
		c.Write(append(pack(uint32(3)), pack([]byte("IHAVEOPT"), uint32(7), uint32(1<<32-1))...))
		io.Copy(io.Discard, c)
	},
	"a name of 5,000 bytes": func(c net.Conn) {
		c.Write(append(pack(uint32(3)), option(7, pack(uint32(5000), make([]byte, 5000), uint16(0)))...))
		c.Read(make([]byte, 64))
	},
	"options without end": func(c net.Conn) {
		c.Write(pack(uint32(3)))
		many := bytes.Repeat(option(3, nil), 1000)
		for _, err := c.Write(many); err == nil; _, err = c.Write(many) {
		}
	},
	"half a request": func(c net.Conn) {
		enter(c)
		c.Write(request(0, cmdRead, 1, 0, 512)[:13])
	},
	"a request with wrong magic": func(c net.Conn) {
		enter(c)
		c.Write(make([]byte, 28))
		io.Copy(io.Discard, c)
	},
	"half a write": func(c net.Conn) {
		enter(c)
		c.Write(request(0, cmdWrite, 1, 0, 32*mib))
		c.Write(make([]byte, mib))
	},
	"reads beyond the end": func(c net.Conn) {
		enter(c)
		for range 100 {
			c.Write(request(0, cmdRead, 1, 1<<64-1, 1<<32-1))
		}
		c.Read(make([]byte, 1600))
	},
	"huge reads that nobody reads": func(c net.Conn) {
		enter(c)
		c.SetDeadline(time.Now().Add(200 * time.Millisecond))
		for range 100 {
			c.Write(request(0, cmdRead, 1, 0, 32*mib))
		}
		c.Read(make([]byte, 16)) // the first reply begins
	},
	"an over-long write": func(c net.Conn) {
		enter(c)
		c.Write(request(0, cmdWrite, 1, 0, 1<<32-1))
		c.Write(make([]byte, mib))
	},
	"every option with random content": func(c net.Conn) {
		c.Write(pack(uint32(3)))
		for _, number := range rand.Perm(21) {
			if number != 1 && number != 2 { // these end it
				c.Write(option(uint32(number), random(rand.Uint64(), rand.Int64N(300))))
			}
		}
		c.Write(option(uint32(1+rand.IntN(2)), random(rand.Uint64(), 300)))
		io.Copy(io.Discard, c)
	},
	"every option with half its content": func(c net.Conn) {
		c.Write(pack(uint32(3)))
		c.Write(option(rand.Uint32N(21), make([]byte, 1<<16))[:1<<15])
	},
	"queries for contexts without end": func(c net.Conn) {
		go io.Copy(io.Discard, c)
		c.Write(append(pack(uint32(3)), option(8, nil)...))
		query := append(pack(uint32(0), uint32(1<<14-2)), make([]byte, 4*(1<<14-2))...) // as many as fit
		for _, err := c.Write(option(9, query)); err == nil; _, err = c.Write(option(10, query)) {
		}
	},
	"more queries than there are": func(c net.Conn) {
		c.Write(append(pack(uint32(3)), option(8, nil)...))
		c.Write(option(10, pack(uint32(0), uint32(1<<32-1), make([]byte, 4096))))
		c.Read(make([]byte, 64))
	},
	"every command with every flag": func(c net.Conn) {
		enter(c)
		go io.Copy(io.Discard, c)
		for cmd := range uint16(16) {
			for flag := range 16 {
				if cmd != cmdDisc {
					r := request(1<<flag, cmd, 1, 512, 512)
					if cmd == cmdWrite {
						r = append(r, make([]byte, 512)...)
					}
					c.Write(r)
				}
			}
		}
		c.Write(request(0xffff, cmdDisc, 1, 1<<64-1, 1<<32-1))
	},
}

// enter gets into the transmission phase in the shortest way.
func enter(c net.Conn) {
	c.Write(append(pack(uint32(3)), option(1, nil)...)) // NBD_OPT_EXPORT_NAME ""
	io.ReadFull(c, make([]byte, 10))
}

// afterTLS is a connection on which TLS has been started: the client's flags,
// which a hostile client sends first, went before that.
type afterTLS struct {
	net.Conn
	begun bool
}

func (c *afterTLS) Write(p []byte) (int, error) {
	if !c.begun && bytes.HasPrefix(p, pack(uint32(3))) {
		c.begun = true
		n, err := c.Conn.Write(p[4:])
		return n + 4, err
	}
	c.begun = true
	return c.Conn.Write(p)
}

// TestHostileClients: while clients of all these kinds come and go, half of them
// over TLS, a copy is right, nobody panics, and the memory of the process doesn't
// grow.
func TestHostileClients(t *testing.T) {
	const (
		rounds = 40 // more than 500 connections
		// What the requests of a round hold at a time is 200 MiB at most, and
		// the garbage collector is told to keep to 256. A server that lost
		// the buffers of a few connections would need gigabytes.
		limit = 384 * mib
	)
	p := newPKI(t)
	disk := newImage(t, "disk.img", sparse(64*mib))
	s := start(t, config{plain: true, env: []string{"GOMEMLIMIT=256MiB"}, volumes: []string{"rw=memory:64M", disk},
		flags: []string{"--log-level", "error", "--tls", "on", "--tls-certificates", p.server}})
	must(t, "nbdinfo", s.uri("tcp"))
	begin, before := time.Now(), rss(t, s)
	round := func(overTLS bool) {
		var wg sync.WaitGroup
		defer wg.Wait()
		for name, attack := range hostile {
			wg.Go(func() {
				c, err := net.Dial("tcp", s.tcp())
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				if !overTLS {
					io.ReadFull(c, make([]byte, 18))
					attack(c)
				} else if over, err := p.startTLS(c); err != nil {
					t.Errorf("%s: %v", name, err)
				} else {
					attack(&afterTLS{Conn: over})
				}
			})
		}
	}
	dir := t.TempDir()
	stop := make(chan struct{})
	var copies sync.WaitGroup
	copies.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				if n > 0 {
					return
				}
			default:
			}
			out := dir + "/out" + strconv.Itoa(n)
			r := do(t, command(t, "nbdcopy", s.uris["tcp"][1], out))
			if r.code != 0 {
				t.Errorf("nbdcopy: %s", r.stderr)
				return
			}
			sameFile(t, disk, out)
			os.Remove(out)
		}
	})
	most := before
	for i := range rounds {
		round(i%2 == 1)
		most = max(most, rss(t, s))
	}
	close(stop)
	copies.Wait()

	eventually(t, "all connections are closed", func() bool {
		st := s.status()
		return st.Connections == 0 && st.InFlight == 0
	})
	t.Logf("%d hostile connections, half of them over TLS, in %.1f s: RSS %d MiB before, %d MiB at most, %d MiB after",
		rounds*len(hostile), time.Since(begin).Seconds(), before/mib, most/mib, rss(t, s)/mib)
	if most > limit {
		t.Errorf("the process has taken %d MiB, more than %d", most/mib, limit/mib)
	}
	must(t, "nbdinfo", s.uri("tcp"))
}

// TestStalledReaders: clients that each ask for 2 GiB at once, and then read
// nothing, take no more memory than they may, and nobody else's turn. A drain
// ends in time with them.
func TestStalledReaders(t *testing.T) {
	const (
		clients = 16
		limit   = clients*64*mib + 256*mib
	)
	s := start(t, config{plain: true, env: []string{"GOMEMLIMIT=256MiB"}, volumes: []string{"memory:32M"}, flags: []string{"--drain-timeout", "1s", "--max-memory", "2G"}})
	before := rss(t, s)
	for range clients {
		c := s.connect("tcp")
		for i := range uint64(64) {
			c.put(request(0, cmdRead, i, 0, 32*mib))
		}
	}
	other := s.connect("tcp")
	most := before
	for range 500 {
		other.read(mib, 4096)
		most = max(most, rss(t, s))
	}
	if st := s.status(); st.Connections != clients+1 || st.InFlight == 0 {
		t.Errorf("the status is %+v", st)
	}
	if t.Logf("%d MiB before, %d MiB at most", before/mib, most/mib); most > limit {
		t.Errorf("the process has taken %d MiB, more than %d", most/mib, limit/mib)
	}
	other.disconnect()
	s.signal(syscall.SIGTERM)
	if r := s.ended(3, "signal=SIGTERM"); r.ClientsCut != clients {
		t.Errorf("the report is %+v", r)
	}
}

// TestOneSilentClient: those who come in the middle of a handshake that never
// ends are served.
func TestOneSilentClient(t *testing.T) {
	t.Parallel()
	s := start(t, config{volumes: []string{"memory:1M"}})
	for range 20 {
		c, err := net.Dial("tcp", s.tcp())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	s.connect("tcp").read(0, 512)
	// A drain refuses them; as nothing is lost, the end is clean.
	must(t, raceBinary, "ctl", "--control", "unix://"+s.ctl, "drain")
	s.awaitRefusal()
}

// TestSlowLoris: a thousand connections that say nothing, or a byte each second,
// or STARTTLS and then nothing, don't keep a client out, and cost no more memory
// than the limit of connections has it.
func TestSlowLoris(t *testing.T) {
	const (
		loris = 1000
		// 256 connections with a buffer of 64 KiB each, and what the garbage
		// collector leaves lying as long.
		limit = 96 * mib
	)
	p := newPKI(t)
	image := newImage(t, "disk.img", sparse(64*mib))
	startTLS := append(pack(uint32(3)), option(5, nil)...)
	for _, tt := range []struct {
		name  string
		flags []string
		say   func(c net.Conn, i int, stop <-chan struct{}) // in a goroutine
	}{
		{"plain", nil, func(c net.Conn, i int, stop <-chan struct{}) {
			if i%2 == 0 {
				drip(c, append(pack(uint32(3)), option(3, nil)...), stop)
			}
		}},
		{"TLS", p.flags(), func(c net.Conn, i int, stop <-chan struct{}) {
			// One that was evicted meanwhile gets no answer.
			if _, err := io.ReadFull(c, make([]byte, 18)); err != nil {
				return
			}
			c.Write(startTLS)
			if _, err := io.ReadFull(c, make([]byte, 20)); err == nil && i%2 == 0 {
				drip(c, append([]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), make([]byte, 501)...), stop) // a ClientHello begins so
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, config{plain: true, env: []string{"GOMEMLIMIT=64MiB"}, volumes: []string{image}, flags: append(tt.flags, "--log-level", "error")})
			uri := s.uri("tcp")
			if tt.flags != nil {
				uri = with(uri, p.client)
			}
			must(t, "nbdinfo", uri)
			before := rss(t, s)
			stop := make(chan struct{})
			var all sync.WaitGroup
			var conns []net.Conn
			defer func() {
				close(stop)
				for _, c := range conns {
					c.Close()
				}
				all.Wait()
			}()
			var longest time.Duration
			for i := range loris {
				c, err := net.Dial("tcp", s.tcp())
				if err != nil {
					t.Fatal(err)
				}
				conns = append(conns, c)
				all.Go(func() { tt.say(c, i, stop) })
				if i%100 == 99 {
					begin := time.Now()
					must(t, "nbdinfo", uri)
					longest = max(longest, time.Since(begin))
				}
			}
			after := rss(t, s)
			out := t.TempDir() + "/out.img"
			must(t, "nbdcopy", uri, out)
			sameFile(t, image, out)
			t.Logf("%d connections: nbdinfo served in %v at most; RSS %d MiB before, %d MiB after", loris, longest.Round(time.Millisecond), before/mib, after/mib)
			if after > limit {
				t.Errorf("the process has taken %d MiB, more than %d", after/mib, limit/mib)
			}
		})
	}
}

// drip writes a byte each second.
func drip(c net.Conn, b []byte, stop <-chan struct{}) {
	each := time.NewTicker(time.Second)
	defer each.Stop()
	for i := range b {
		if _, err := c.Write(b[i : i+1]); err != nil {
			return
		}
		select {
		case <-each.C:
		case <-stop:
			return
		}
	}
}

// rss is the memory of the process in bytes.
func rss(t *testing.T, s *server) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(s.cmd.Process.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		if rest, ok := strings.CutPrefix(string(line), "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("no VmRSS in\n%s", b)
	return 0
}
