package nbdserver

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/certificates"
	"github.com/nbdexport/nbdexport/nbdserver/report"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// Who is cut off by the end of a drain, and who is not: what counts is whether
// the connection was over for its client already. Its line in the log says the
// same.
func TestWhoIsCutOff(t *testing.T) {
	tests := []struct {
		name   string
		play   func(t *testing.T, s *Server)
		policy *DrainPolicy
		cut    int
		ended  string
		level  zapcore.Level
	}{
		{"idle", func(t *testing.T, s *Server) {
			c := connect(t, s)
			c.begin(false)
			synctest.Wait()
			s.Close()
			c.eof()
		}, nil, 1, errCut.Error(), zap.WarnLevel},
		// It doesn't read the goodbye of TLS.
		{"has disconnected", func(t *testing.T, s *Server) {
			client, _ := encrypt(t, s, TLSRequire, certificates.Options{})
			c := connect(t, s)
			c.beginTLS(client)
			c.request(0, wire.CmdDisc, 1, 0, 0)
			synctest.Wait()
			s.Close()
		}, nil, 0, errLeft.Error(), zap.InfoLevel},
		{"was disconnected, and lingers", func(t *testing.T, s *Server) {
			c := connectSocket(t, s)
			c.begin(false)
			synctest.Wait()
			s.BeginDrain("test")
			synctest.Wait()
			s.Close()
		}, &DrainPolicy{Timeout: time.Minute, Policy: Disconnect}, 0, errDrained.Error(), zap.InfoLevel},
		{"was closed by force, but its request hangs", func(t *testing.T, s *Server) {
			d := newDisk(s, s.Exports[0].Backend)
			s.Exports[0].Backend = d
			d.do("hangs write")
			c := connect(t, s)
			c.begin(false)
			c.request(0, wire.CmdWrite, 1, 0, 4, "data")
			synctest.Wait()
			s.connections()[0].Disconnect(true)
			c.eof()
			s.Close()
			d.do("recovers")
		}, nil, 0, errCut.Error(), zap.WarnLevel},
		{"negotiates", func(t *testing.T, s *Server) {
			c := connect(t, s)
			c.greet(3)
			synctest.Wait()
			s.Close()
			c.eof()
		}, nil, 0, errDrained.Error(), zap.InfoLevel},
		{"negotiates at the end of the grace", func(t *testing.T, s *Server) {
			c := connect(t, s)
			c.greet(3)
			synctest.Wait()
			s.BeginDrain("test")
			c.eof()
		}, &DrainPolicy{Timeout: time.Minute}, 0, errDrained.Error(), zap.InfoLevel},
		{"says nothing", func(t *testing.T, s *Server) {
			c := connect(t, s)
			c.get(18)
			s.Close()
			c.eof()
		}, nil, 0, errDrained.Error(), zap.DebugLevel},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 1<<20)
				s.DrainPolicy = tt.policy
				logs := observed(s)
				tt.play(t, s)
				<-s.Done()
				code := report.ExitClean
				if tt.cut > 0 {
					code = report.ExitClientsCut
				}
				if r := s.Report(); r.ClientsCut != tt.cut || r.ExitCode != code {
					t.Errorf("report %+v", r)
				}
				line := oneLine(t, logs)
				if line.ContextMap()["ended"] != tt.ended || line.Level != tt.level {
					t.Errorf("the log says %v %v", line.Level, line.ContextMap())
				}
			})
		})
	}
}

// What a scanner does in a loop doesn't fill the log, and is counted. Who is a
// client has his line, however many there are.
func TestScannersDoNotFloodTheLog(t *testing.T) {
	const many = 10 * sampleFirst
	limit := func(l Limits) func(*testing.T, *Server) {
		return func(t *testing.T, s *Server) { setLimits(t, s, l) }
	}
	for name, tt := range map[string]struct {
		before func(*testing.T, *Server)
		say    func(*rawClient)
	}{
		"protocol_error": {nil, func(c *rawClient) { c.get(18); c.put("GET "); c.eof() }},
		"tls_failed": {nil, func(c *rawClient) {
			c.greet(3)
			c.option(wire.OptStartTLS)
			c.expect(wire.OptStartTLS, wire.RepAck)
		}},
		"handshake_timeout": {nil, func(c *rawClient) { c.greet(3); c.eof() }},
		"denied":            {limit(Limits{Deny: []string{"all"}}), (*rawClient).eof},
		"denied_export": {limit(Limits{Exports: map[string]ExportLimits{"disk": {Deny: []string{"all"}}}}), func(c *rawClient) {
			c.greet(3)
			c.option(wire.OptGo, str(""), uint16(0))
			c.expect(wire.OptGo, wire.RepErrPolicy)
		}},
		"evicted":  {limit(Limits{MaxConnections: 1}), func(c *rawClient) { c.greet(3); c.eof() }},
		"draining": {func(_ *testing.T, s *Server) { s.BeginDrain("test") }, (*rawClient).eof},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 1<<20)
				encrypt(t, s, TLSOn, certificates.Options{})
				logs := observed(s)
				c := connect(t, s)
				c.begin(false)
				c.request(0, wire.CmdDisc, 1, 0, 0)
				c.eof()
				synctest.Wait() // its place is free
				if tt.before != nil {
					tt.before(t, s)
				}
				var all sync.WaitGroup
				for range many {
					all.Go(func() {
						c := connect(t, s)
						tt.say(c)
						c.Close()
					})
					synctest.Wait()
				}
				if name == "evicted" {
					connect(t, s).Close()
				}
				all.Wait()
				synctest.Wait()
				if n := len(logs.Filter(func(l observer.LoggedEntry) bool { return l.Message != "drain" && l.Level > zap.DebugLevel }).All()); n == 0 || n > 2*sampleFirst+1 {
					t.Errorf("%d lines", n)
				}
				wantMetrics(t, s, map[string]string{
					`nbd_server_connections_refused_total{reason="` + name + `"}`: fmt.Sprint(many),
					`nbd_server_panics_total`:                                     "0",
				})
				for r := range s.refused {
					if n := s.refused[r].Load(); n != 0 && reason(r).String() != name {
						t.Errorf("%d are counted as %s", n, reason(r).String())
					}
				}
			})
		})
	}
	t.Run("clients", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newMemory(t, 1<<20)
			logs := observed(s)
			for range many {
				c := connect(t, s)
				c.begin(false)
				c.request(0, wire.CmdDisc, 1, 0, 0)
				c.eof()
			}
			synctest.Wait()
			if n := logs.FilterMessage("connection").Len(); n != many {
				t.Errorf("%d lines about %d clients", n, many)
			}
		})
	})
}

// A volume that fails, or panics, whenever somebody asks for its size doesn't
// fill the log either.
func TestBadSizesDoNotFloodTheLog(t *testing.T) {
	for name, spoil := range map[string]func(*elastic){
		"fails":  func(e *elastic) { err := error(syscall.EIO); e.fails.Store(&err) },
		"panics": func(e *elastic) { e.panics.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, e := newElastic(t)
				spoil(e)
				logs := observed(s)
				c := connect(t, s)
				c.greet(3)
				for range 3 * sampleFirst {
					c.option(wire.OptInfo, str(""), uint16(0))
					c.expect(wire.OptInfo, wire.RepAck)
				}
				if n := logs.Len(); n == 0 || n > 2*sampleFirst {
					t.Errorf("%d lines", n)
				}
				c.Close()
			})
		})
	}
}

// resizing is a Backend that ends the server when it is asked for its size.
type resizing struct {
	backend.Backend
	shutdown func(context.Context) error
}

func (r resizing) Resize(ctx context.Context) (uint64, error) { return 4096, r.shutdown(ctx) }

// The context of a call is good for Shutdown, also where no connection is behind
// it.
func TestShutdownInResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 4096)
		s.Exports[0].Backend = resizing{s.Exports[0].Backend, s.Shutdown}
		start := time.Now()
		if err := s.Reload(t.Context()); err != nil || time.Since(start) != 0 {
			t.Errorf("%v, after %v", err, time.Since(start))
		}
		<-s.Done()
	})
}

// No volume is used any more once it may be closed.
func TestNoUseWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		d := newDisk(s, s.Exports[0].Backend)
		s.Exports[0].Backend = d
		d.do("hangs flush")
		s.BeginDrain("test")
		synctest.Wait()
		nc, _ := net.Pipe()
		if err := s.choose(newConn(s, nc, client{}), s.Exports[0]); err == nil {
			t.Error("a client was let in")
		}
		d.do("recovers")
		<-s.Done()
		d.take()
		if err := s.flushAll(); err == nil || d.take() != "" {
			t.Errorf("a pause flushes the volume after its close: %v", err)
		}
	})
}

// The bounds of a drain hold over TLS too, whatever the client doesn't read.
func TestDrainOfTLSIsBounded(t *testing.T) {
	const goodbye = 5 * time.Second // crypto/tls waits for so long
	for name, tt := range map[string]struct {
		timeout time.Duration
		asks    bool
		after   time.Duration
		code    int
	}{
		"its reply":                      {30 * time.Second, true, 30 * time.Second, report.ExitClientsCut},
		"the goodbye":                    {30 * time.Second, false, 10*time.Second + goodbye, report.ExitClean},
		"the goodbye, without a timeout": {Infinite, false, 10*time.Second + goodbye, report.ExitClean},
		"the goodbye, until the timeout": {12 * time.Second, false, 12 * time.Second, report.ExitClean},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 1<<20)
				client, _ := encrypt(t, s, TLSRequire, certificates.Options{})
				s.DrainPolicy = &DrainPolicy{Grace: 10 * time.Second, Timeout: tt.timeout, Policy: Disconnect}
				c := connect(t, s)
				c.beginTLS(client)
				if tt.asks {
					c.request(0, wire.CmdRead, 1, 0, 1<<20)
				}
				synctest.Wait()
				s.BeginDrain("test")
				ended(t, s, tt.after, tt.code)
			})
		})
	}
}

// ConnState may close the server too, in any state.
func TestCloseInConnState(t *testing.T) {
	for state := StateNegotiating; state <= StateEnded; state++ {
		synctest.Test(t, func(t *testing.T) {
			s := newMemory(t, 1<<20)
			s.ConnState = func(_ *Conn, st ConnState) {
				if st == state {
					s.Close()
				}
			}
			c := connect(t, s)
			c.reach(state)
			if state == StateEnded {
				c.Close()
			}
			<-s.Done()
		})
	}
}
