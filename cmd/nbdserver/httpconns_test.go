package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// emptyPages are connections to a page that is empty, in the bubble of a test.
type emptyPages struct{ *pipeListener }

func (p emptyPages) connect() net.Conn {
	here, there := net.Pipe()
	p.dialed <- there
	return here
}

// get asks for a page on c, which stays open.
func get(t *testing.T, c net.Conn, header string) int {
	t.Helper()
	// The answer may come before all is sent.
	go io.WriteString(c, "GET / HTTP/1.1\r\nHost: test\r\n"+header+"\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

func withPages(t *testing.T, play func(t *testing.T, p emptyPages)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &pipeListener{dialed: make(chan net.Conn), closed: make(chan struct{})}
		stop := serveHTTP(l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), zap.NewNop())
		defer stop()
		play(t, emptyPages{l})
	})
}

// TestSilentHTTPClients: however far a client gets before it falls silent, its
// connection is closed.
func TestSilentHTTPClients(t *testing.T) {
	for name, tt := range map[string]struct {
		say   func(t *testing.T, c net.Conn)
		after time.Duration
	}{
		"from the beginning": {func(*testing.T, net.Conn) {}, 5 * time.Second},
		"in its request":     {func(_ *testing.T, c net.Conn) { io.WriteString(c, "GET / HT") }, 5 * time.Second},
		"after an answer":    {func(t *testing.T, c net.Conn) { get(t, c, "") }, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			withPages(t, func(t *testing.T, p emptyPages) {
				c := p.connect()
				start := time.Now()
				tt.say(t, c)
				io.Copy(io.Discard, c)
				if d := time.Since(start); d != tt.after {
					t.Errorf("closed after %v, not %v", d, tt.after)
				}
			})
		})
	}
}

// TestManyHTTPClients: those that say nothing keep nobody out; the one that is
// closed for a newcomer is the one that has been silent for longest.
func TestManyHTTPClients(t *testing.T) {
	withPages(t, func(t *testing.T, p emptyPages) {
		var all []net.Conn
		for range maxHTTPConns {
			all = append(all, p.connect())
			synctest.Wait()
		}
		if code := get(t, all[0], ""); code != http.StatusOK {
			t.Errorf("the first one is answered %d", code)
		}
		newcomer := p.connect()
		if code := get(t, newcomer, ""); code != http.StatusOK {
			t.Errorf("the newcomer is answered %d", code)
		}
		synctest.Wait()
		for i, c := range all {
			c.SetReadDeadline(time.Now())
			_, err := c.Read(make([]byte, 1))
			if closed := errors.Is(err, io.EOF); closed != (i == 1) {
				t.Errorf("connection %d: %v", i, err)
			}
			c.Close()
		}
		for range maxHTTPConns { // those that are closed take no place
			c := p.connect()
			get(t, c, "")
			c.Close()
			synctest.Wait()
		}
		if code := get(t, newcomer, ""); code != http.StatusOK {
			t.Errorf("the newcomer is answered %d the second time", code)
		}
		newcomer.Close()
	})
}

func TestLongHTTPHeader(t *testing.T) {
	withPages(t, func(t *testing.T, p emptyPages) {
		c := p.connect()
		defer c.Close()
		if code := get(t, c, "X: "+strings.Repeat("x", 32<<10)+"\r\n"); code != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("32 KiB of header are answered %d", code)
		}
	})
}
