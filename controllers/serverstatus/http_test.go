package serverstatus

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestHTTP asks real servers, good and bad ones.
func TestHTTP(t *testing.T) {
	const good = `{"connections": 2}`
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	defer elsewhere.Close()
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		err    string
	}{
		{"good", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, good) }, ""},
		{"not there", http.NotFound, "status 404"},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, "status 302"},
		{"no end", func(w http.ResponseWriter, _ *http.Request) {
			for chunk := strings.Repeat(" ", 64<<10); ; {
				if _, err := fmt.Fprint(w, chunk); err != nil {
					return
				}
			}
		}, "more than 262144 bytes"},
		{"long header", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
			fmt.Fprint(w, good)
		}, "header"},
		{"packed", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			fmt.Fprint(z, good)
			z.Close()
		}, "JSON"},
		{"cut", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, good)
		}, "EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet || r.URL.Path != "/status" || r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" {
					t.Errorf("asked for %s %s with %v", r.Method, r.URL, r.Header)
				}
				c.answer(w, r)
			}))
			defer s.Close()
			a, err := HTTP()(t.Context(), s.Listener.Addr().String())
			if c.err == "" && (err != nil || a.Connections != 2) {
				t.Errorf("%+v, %v", a, err)
			}
			if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("%+v, %v; want an error with %q", a, err, c.err)
			}
		})
	}
}

// TestSilent: somebody who takes the question and says nothing is left at the end of the
// context.
func TestSilent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if c, err := l.Accept(); err == nil {
			defer c.Close()
			cancel()
			<-t.Context().Done()
		}
	}()
	if _, err := HTTP()(ctx, l.Addr().String()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
