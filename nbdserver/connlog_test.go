package nbdserver

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// observed has the server log into memory.
func observed(s *Server) *observer.ObservedLogs {
	core, logs := observer.New(zap.DebugLevel)
	s.Log = zap.New(core)
	return logs
}

// oneLine is the only line about a connection.
func oneLine(t *testing.T, logs *observer.ObservedLogs) observer.LoggedEntry {
	t.Helper()
	lines := logs.FilterMessage("connection").All()
	if len(lines) != 1 {
		t.Fatalf("%d lines about the connection: %v", len(lines), lines)
	}
	return lines[0]
}

// TestConnectionIsOneLine: whatever the end, there is one line about it, at a
// level that says how much it matters.
func TestConnectionIsOneLine(t *testing.T) {
	tests := []struct {
		name   string
		client func(c *rawClient, s *Server)
		level  zapcore.Level
		ended  string
	}{
		{"a probe", func(c *rawClient, _ *Server) { c.Close() }, zap.DebugLevel, ""},
		{"a probe that waits for the greeting", func(c *rawClient, _ *Server) { c.get(18); c.Close() }, zap.DebugLevel, "client closed the connection"},
		{"a probe that says half a word", func(c *rawClient, _ *Server) { c.get(18); c.put(uint16(0)); c.Close() }, zap.DebugLevel, "client closed the connection"},
		{"another protocol", func(c *rawClient, _ *Server) { c.get(18); c.put("GET "); c.eof() }, zap.WarnLevel, "malformed message: unknown client flags"},
		{"silence", func(c *rawClient, _ *Server) { c.get(18); c.eof() }, zap.WarnLevel, "handshake timeout"},
		{"gone while negotiating", func(c *rawClient, _ *Server) { c.greet(3); c.Close() }, zap.InfoLevel, "client closed the connection"},
		{"abort", func(c *rawClient, _ *Server) {
			c.greet(3)
			c.option(wire.OptAbort)
			c.expect(wire.OptAbort, wire.RepAck)
			c.eof()
		}, zap.InfoLevel, "client aborted the negotiation"},
		{"no such export", func(c *rawClient, _ *Server) {
			c.greet(3)
			c.option(wire.OptExportName, "nope")
			c.eof()
		}, zap.InfoLevel, `client asked for an export "nope" that isn't there`},
		{"too many options", func(c *rawClient, _ *Server) {
			c.greet(3)
			for range maxOptions + maxPerExport {
				c.option(wire.OptList)
				c.expect(wire.OptList, wire.RepAck)
			}
			c.eof()
		}, zap.WarnLevel, "client broke the protocol"},
		{"disconnect", func(c *rawClient, _ *Server) {
			c.begin(true)
			c.request(0, wire.CmdDisc, 1, 0, 0)
			c.eof()
		}, zap.InfoLevel, "client disconnected"},
		{"gone", func(c *rawClient, _ *Server) { c.begin(false); c.Close() }, zap.InfoLevel, "client closed the connection"},
		{"gone within a request", func(c *rawClient, _ *Server) {
			c.begin(false)
			c.request(0, wire.CmdWrite, 1, 0, 8, "half")
			c.Close()
		}, zap.InfoLevel, "client closed the connection in the middle of a request"},
		{"no request", func(c *rawClient, _ *Server) {
			c.begin(false)
			c.put(make([]byte, 28))
			c.eof()
		}, zap.WarnLevel, "client broke the protocol"},
		{"by force", func(c *rawClient, s *Server) {
			c.begin(false)
			s.connections()[0].Disconnect(true)
			c.eof()
		}, zap.WarnLevel, "closed by force"},
		{"by the drain", func(c *rawClient, s *Server) {
			c.begin(false)
			synctest.Wait()
			s.DrainPolicy = &DrainPolicy{Timeout: time.Hour, Policy: Disconnect}
			s.BeginDrain("test")
			c.eof()
		}, zap.InfoLevel, "disconnected by the drain"},
		{"panic", func(c *rawClient, s *Server) {
			s.Exports[0].Backend.(*gated).panics.Store(true)
			c.begin(false)
			c.request(0, wire.CmdWrite, 1, 0, 4, "boom")
			c.eof()
		}, zap.WarnLevel, "closed after a panic"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 1<<20)
				gate(s)
				logs := observed(s)
				c := connect(t, s)
				tt.client(c, s)
				synctest.Wait()
				line := oneLine(t, logs)
				if line.Level != tt.level {
					t.Errorf("the level is %v, not %v", line.Level, tt.level)
				}
				if ended := line.ContextMap()["ended"].(string); !strings.HasPrefix(ended, tt.ended) {
					t.Errorf("ended: %q, not %q", ended, tt.ended)
				}
				c.Close()
			})
		})
	}
}

// TestProbes: what a kubelet and a load balancer do to a socket, be it a close or
// a reset, makes no line that is seen.
func TestProbes(t *testing.T) {
	for _, linger := range []int{-1, 0} {
		s := newMemory(t, 1<<20)
		logs := observed(s)
		c := dial(t, listen(t, s))
		c.get(1) // it was accepted
		c.Conn.(*net.TCPConn).SetLinger(linger)
		c.Close()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if line := oneLine(t, logs); line.Level != zap.DebugLevel {
			t.Errorf("linger %d: %v %v", linger, line.Level, line.ContextMap())
		}
	}
}

func TestConnectionLineSaysItAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		logs := observed(s)
		c := connect(t, s)
		c.begin(true)
		c.request(0, wire.CmdWrite, 1, 0, 4, "data")
		c.chunk()
		c.request(0, wire.CmdRead, 2, 0, 512)
		c.chunk()
		c.request(0, wire.CmdRead, 3, 1<<20, 512)
		c.mustFail(3, wire.EINVAL)
		time.Sleep(90 * time.Second)
		c.request(0, wire.CmdDisc, 4, 0, 0)
		c.eof()
		synctest.Wait()
		got := oneLine(t, logs).ContextMap()
		want := map[string]any{"peer": "pipe", "listener": "pipe", "export": "disk", "features": []any{"structured", "base:allocation"},
			"requests": uint64(4), "errors": uint64(1), "bytesRead": uint64(512), "bytesWritten": uint64(4),
			"duration": 90 * time.Second, "ended": "client disconnected"}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("the line says\n%v, not\n%v", got, want)
		}
		if n := logs.FilterMessage("drain").Len() + 1; n != logs.Len() {
			t.Errorf("more was logged: %v", logs.All())
		}
	})
}

// TestLogIsNotFlooded: neither a client's mistakes nor a broken disk fill the
// log, and nothing that was left out is uncounted.
func TestLogIsNotFlooded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		gate(s).flushErr = &testError{syscall.EIO}
		logs := observed(s)
		c := connect(t, s)
		c.begin(false)
		for range 1000 {
			c.request(0, wire.CmdRead, 1, 1<<20, 1)
			c.must(1, wire.EINVAL)
		}
		if n := logs.Len(); n != 0 {
			t.Errorf("%d lines for a client's mistakes", n)
		}
		for minute := range 2 {
			for range 1000 {
				c.request(0, wire.CmdFlush, 2, 0, 0)
				c.must(2, wire.EIO)
			}
			lines := logs.FilterMessage("request failed").All()
			if len(lines) != sampleFirst*(minute+1) {
				t.Errorf("%d lines about failed requests after %d minutes", len(lines), minute)
			}
			if m := lines[0].ContextMap(); lines[0].Level != zap.ErrorLevel || m["peer"] != "pipe" || m["command"] != "flush" || m["error"] == "" {
				t.Errorf("%v %v", lines[0].Level, m)
			}
			time.Sleep(sampleEvery)
		}
		c.Close()
		synctest.Wait()
		if n := oneLine(t, logs).ContextMap()["errors"]; n != uint64(3000) {
			t.Errorf("%v errors in the connection's line", n)
		}
	})
}

// forger has an address that a client can choose, as that of a unix socket.
type forger struct{ net.Conn }

func (forger) RemoteAddr() net.Addr {
	return &net.UnixAddr{Net: "unix", Name: "@x\n2026-11-20T12:00:00Z\tINFO\tall is well\x1b[2J\x00\xff"}
}

// TestNamesDoNotForgeLines: what clients choose stays within its line.
func TestNamesDoNotForgeLines(t *testing.T) {
	for name, encoder := range map[string]zapcore.Encoder{
		"json":    zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()),
		"console": zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()),
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			s := newMemory(t, 1<<20)
			s.Log = zap.New(zapcore.NewCore(encoder, zapcore.AddSync(&out), zap.DebugLevel))
			s.init()
			nc, _ := net.Pipe()
			c := newConn(s, forger{nc}, client{})
			c.logEnd(fmt.Errorf("%w: export %q", errBadRequest, "\r\n\x1b[31m\u2028\u0085"))
			c.logEnd(errors.New("raw \r\n\x1b[31m"))
			c.export = s.Exports[0]
			c.logFailed(wire.Request{Command: wire.CmdRead}, errors.New("\r\n\x1b[31m"))
			s.panicked("panic", "\r\n\x1b[31m", zap.Stringer("peer", c.peer))
			if n := strings.Count(out.String(), "\n"); n != 4 {
				t.Errorf("%d lines, not 4:\n%q", n, out.String())
			}
			if i := strings.IndexFunc(out.String(), func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r == '\u2028' || r == '\u0085' }); i >= 0 {
				t.Errorf("a control character at %d of\n%q", i, out.String())
			}
			if name == "json" && strings.Contains(out.String(), "\t") {
				t.Errorf("a tab in\n%q", out.String())
			}
		})
	}
}
