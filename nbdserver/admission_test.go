package nbdserver

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/backend/memory"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

func setLimits(t *testing.T, s *Server, l Limits) {
	t.Helper()
	if err := s.SetLimits(l); err != nil {
		t.Fatal(err)
	}
}

// connectFrom is connect for a client with an IP address.
func connectFrom(t *testing.T, s *Server, addr string) *rawClient {
	t.Helper()
	a, b := net.Pipe()
	s.init()
	s.start(remote{b, &net.TCPAddr{IP: net.ParseIP(addr), Port: 1}})
	return &rawClient{t, a}
}

func TestSetLimitsRefuses(t *testing.T) {
	s := newMemory(t, 1<<20)
	setLimits(t, s, Limits{MaxConnections: 7})
	for why, l := range map[string]Limits{
		"maxConnections: ":                   {MaxConnections: -1},
		"maxConnectionsPerClient: ":          {MaxConnectionsPerClient: -1},
		"handshakeTimeout: ":                 {HandshakeTimeout: -1},
		"allow: ":                            {Allow: []string{"nowhere"}},
		"deny: ":                             {Deny: []string{"nowhere"}},
		"rate: bytesPerSecond":               {Rate: Rate{BytesPerSecond: -1}},
		"rate: a burst of 1 ":                {Rate: Rate{BytesPerSecond: 1, Burst: 1}},
		"connectionRate: a burst of -1 ":     {ConnectionRate: Rate{BytesPerSecond: 1, Burst: -1}},
		"maxMemory: ":                        {MaxMemory: wire.MaxBlock - 1},
		"maxConnectionMemory: ":              {MaxConnectionMemory: -wire.MaxBlock},
		`volumes: "dusk" isn't the name`:     {Exports: map[string]ExportLimits{"dusk": {}}},
		`volumes: "disk": maxConnections: `:  {Exports: map[string]ExportLimits{"disk": {MaxConnections: -1}}},
		`volumes: "disk": allow: `:           {Exports: map[string]ExportLimits{"disk": {Allow: []string{""}}}},
		`volumes: "disk": rate: a burst of `: {Exports: map[string]ExportLimits{"disk": {Rate: Rate{1, 1}}}},
	} {
		if err := s.SetLimits(l); err == nil || !strings.HasPrefix(err.Error(), why) {
			t.Errorf("%+v: %v; want an error about %s", l, err, why)
		}
	}
	if n := s.limits.Load().MaxConnections; n != 7 {
		t.Errorf("the limits have changed: %d connections", n)
	}
}

func TestDeniedByAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		setLimits(t, s, Limits{Deny: []string{"192.0.2.0/24"}})
		connectFrom(t, s, "192.0.2.1").eof()
		c := connectFrom(t, s, "198.51.100.1")
		c.begin(false)
		// Who is connected isn't disturbed.
		setLimits(t, s, Limits{Deny: []string{"all"}})
		connectFrom(t, s, "198.51.100.1").eof()
		c.request(0, wire.CmdFlush, 1, 0, 0)
		c.must(1, 0)
		c.Close()
		if n := s.refused[denied].Load(); n != 2 {
			t.Errorf("%d connections denied", n)
		}
	})
}

// negotiators connects clients that get no further than the greeting, a second
// apart.
func negotiators(t *testing.T, s *Server, addrs ...string) (all []*rawClient) {
	for _, a := range addrs {
		c := connectFrom(t, s, a)
		c.greet(3)
		all = append(all, c)
		time.Sleep(time.Second)
	}
	return all
}

func closeAll(all ...*rawClient) {
	for _, c := range all {
		c.Close()
	}
}

func TestNewcomerDisplacesOldestNegotiator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		setLimits(t, s, Limits{MaxConnections: 3})
		one := connectFrom(t, s, "192.0.2.1")
		one.begin(false)
		n := negotiators(t, s, "192.0.2.2", "192.0.2.3")
		two := connectFrom(t, s, "192.0.2.4")
		n[0].eof() // the first of them
		two.begin(false)
		three := connectFrom(t, s, "192.0.2.5")
		n[1].eof()
		three.begin(false)
		// Those who have an export are never displaced.
		connectFrom(t, s, "192.0.2.6").eof()
		for _, c := range []*rawClient{one, two, three} {
			c.request(0, wire.CmdFlush, 1, 0, 0)
			c.must(1, 0)
			c.Close()
		}
		synctest.Wait()
		if ev, many := s.refused[evicted].Load(), s.refused[tooMany].Load(); ev != 2 || many != 1 {
			t.Errorf("%d evicted, %d too many", ev, many)
		}
	})
}

func TestLimitPerClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		setLimits(t, s, Limits{MaxConnectionsPerClient: 2})
		other := negotiators(t, s, "192.0.2.1")
		n := negotiators(t, s, "192.0.2.2", "::ffff:192.0.2.2")
		// A client displaces its own, although another's has waited for longer.
		one := connectFrom(t, s, "192.0.2.2")
		n[0].eof()
		one.begin(false)
		two := connectFrom(t, s, "192.0.2.2")
		n[1].eof()
		two.begin(false)
		connectFrom(t, s, "192.0.2.2").eof()
		other[0].option(wire.OptGo, str(""), uint16(0))
		other[0].expect(wire.OptGo, wire.RepAck)
		if ev, many := s.refused[evicted].Load(), s.refused[tooManyOfClient].Load(); ev != 2 || many != 1 {
			t.Errorf("%d evicted, %d too many", ev, many)
		}
		// A pipe is nobody's in particular.
		p := []*rawClient{connect(t, s), connect(t, s), connect(t, s)}
		for _, c := range p {
			c.begin(false)
		}
		closeAll(append(p, one, two, other[0])...)
	})
}

// A limit below what is connected already lets nobody in, and disturbs nobody.
func TestLoweredLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		c := connectFrom(t, s, "192.0.2.1")
		c.begin(false)
		n := negotiators(t, s, "192.0.2.2", "192.0.2.3")
		setLimits(t, s, Limits{MaxConnections: 2})
		connectFrom(t, s, "192.0.2.4").eof()
		setLimits(t, s, Limits{MaxConnectionsPerClient: 1, MaxConnections: 3})
		d := connectFrom(t, s, "192.0.2.3") // its own goes
		n[1].eof()
		d.begin(false)
		for _, c := range []*rawClient{c, d} {
			c.request(0, wire.CmdFlush, 1, 0, 0)
			c.must(1, 0)
		}
		closeAll(c, d, n[0])
	})
}

func twoVolumes(t *testing.T) *Server {
	t.Helper()
	s := newMemory(t, 1<<20)
	m, err := memory.New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	s.Exports = append(s.Exports, &Export{Name: "second", Backend: m})
	return s
}

func TestExportDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := twoVolumes(t)
		setLimits(t, s, Limits{Exports: map[string]ExportLimits{"disk": {Allow: []string{"192.0.2.1"}, Deny: []string{"all"}}}})
		c := connectFrom(t, s, "192.0.2.2")
		c.greet(3)
		c.option(wire.OptList)
		if types, _ := c.replies(wire.OptList); len(types) != 2 {
			t.Errorf("%d exports are listed", len(types)-1)
		}
		c.option(wire.OptStructuredReply)
		c.expect(wire.OptStructuredReply, wire.RepAck)
		for _, name := range []string{"disk", ""} {
			for _, o := range []wire.Option{wire.OptInfo, wire.OptGo} {
				c.option(o, str(name), uint16(0))
				c.expect(o, wire.RepErrPolicy)
			}
			c.option(wire.OptSetMetaContext, str(name), uint32(0))
			c.expect(wire.OptSetMetaContext, wire.RepErrPolicy)
		}
		c.option(wire.OptGo, str("second"), uint16(0))
		c.expect(wire.OptGo, wire.RepAck)

		old := connectFrom(t, s, "192.0.2.2")
		old.greet(3)
		old.option(wire.OptExportName, "disk")
		old.eof()
		permitted := connectFrom(t, s, "192.0.2.1")
		permitted.begin(true)
		if n := s.refused[deniedExport].Load(); n != 3 {
			t.Errorf("%d counted", n)
		}
		closeAll(c, permitted)
	})
}

func TestExportMaxConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := twoVolumes(t)
		logs := observed(s)
		l := Limits{Exports: map[string]ExportLimits{"disk": {MaxConnections: 1}}}
		setLimits(t, s, l)
		c := connect(t, s)
		c.begin(false)
		d := connect(t, s)
		d.greet(3)
		for range 30 {
			d.option(wire.OptGo, str("disk"), uint16(0))
			d.expect(wire.OptGo, wire.RepErrPolicy)
		}
		// Asking about it takes no place.
		d.option(wire.OptInfo, str("disk"), uint16(0))
		d.expect(wire.OptInfo, wire.RepAck)
		c.Close()
		synctest.Wait()
		d.option(wire.OptGo, str("disk"), uint16(0))
		d.expect(wire.OptGo, wire.RepAck)
		e := connect(t, s)
		e.greet(3)
		e.option(wire.OptGo, str(""), uint16(0)) // the same volume
		e.expect(wire.OptGo, wire.RepErrPolicy)
		l.Exports = map[string]ExportLimits{"disk": {MaxConnections: 2}}
		setLimits(t, s, l)
		e.option(wire.OptGo, str(""), uint16(0))
		e.expect(wire.OptGo, wire.RepAck)
		if n := s.refused[tooManyOfExport].Load(); n != 31 {
			t.Errorf("%d counted", n)
		}
		if n := logs.FilterMessage("export refused").Len(); n != sampleFirst {
			t.Errorf("%d lines in the log", n)
		}
		closeAll(d, e)
		synctest.Wait()
		if n := s.Exports[0].clients; n != 0 {
			t.Errorf("%d clients are left", n)
		}
	})
}

// Hundreds of connections that say nothing, or a byte now and then, don't keep a
// client out, and cost no more memory than the limit of connections has it.
func TestSlowLoris(t *testing.T) {
	const loris = 600 // and both ends of those that stay: a process may have 1,024 descriptors
	s := newMemory(t, 1<<20)
	setLimits(t, s, Limits{HandshakeTimeout: time.Hour})
	addr := listen(t, s)
	before := heap()
	var all []net.Conn
	for i := range loris {
		c := dial(t, addr)
		if i%2 == 1 {
			c.Write([]byte{0})
		}
		all = append(all, c)
	}
	c := dial(t, addr)
	c.begin(true)
	c.request(0, wire.CmdFlush, 1, 0, 0)
	c.chunk()
	after := heap()
	// They are a crowd still: as many as there may be.
	places := 0
	s.mu.Lock()
	for c := range s.conns {
		if !c.evicted {
			places++
		}
	}
	s.mu.Unlock()
	if places != DefaultMaxConnections {
		t.Errorf("%d connections", places)
	}
	if n := s.refused[evicted].Load(); n != loris+1-DefaultMaxConnections {
		t.Errorf("%d connections evicted", n)
	}
	t.Logf("the heap: %d KiB before, %d KiB with %d idle connections", before>>10, after>>10, loris)
	if after > before+32<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
	for _, l := range all {
		l.Close()
	}
}

// With a limit for each client, one that comes again as soon as it is cut off
// doesn't even displace others.
func TestStormOfOneClient(t *testing.T) {
	s := newMemory(t, 1<<20)
	setLimits(t, s, Limits{MaxConnections: 8, MaxConnectionsPerClient: 4, HandshakeTimeout: time.Hour})
	addr := listen(t, s)
	stop := make(chan struct{})
	var storm sync.WaitGroup
	defer storm.Wait()
	defer close(stop)
	for range 16 {
		storm.Go(func() {
			from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
			for {
				select {
				case <-stop:
					return
				default:
				}
				if c, err := from.Dial("tcp", addr.String()); err == nil {
					c.SetDeadline(time.Now().Add(time.Second))
					io.Copy(io.Discard, c)
					c.Close()
				}
			}
		})
	}
	for range 50 {
		c := dial(t, addr)
		c.begin(false)
		c.request(0, wire.CmdDisc, 1, 0, 0)
		c.eof()
	}
}
