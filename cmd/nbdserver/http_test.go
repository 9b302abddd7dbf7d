package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/nbdexport/nbdexport/nbdserver"
	"github.com/nbdexport/nbdexport/nbdserver/backend/memory"
)

// pages serves both sets of pages of a server that has one client.
func pages(t *testing.T) (srv *nbdserver.Server, network, control *httptest.Server) {
	t.Helper()
	m, err := memory.New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	srv = &nbdserver.Server{Exports: []*nbdserver.Export{{Name: "disk", Backend: m}}, Version: "v1.2.3"}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.ReadFull(c, make([]byte, 18)); err != nil { // greeted, so it is in the status
		t.Fatal(err)
	}
	network, control = httptest.NewServer(readOnlyPages(srv)), httptest.NewServer(controlPages(srv, newReloader(zap.NewNop())))
	t.Cleanup(network.Close)
	t.Cleanup(control.Close)
	return srv, network, control
}

func ask(t *testing.T, method, url string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestPages(t *testing.T) {
	srv, network, control := pages(t)
	const text, js = "text/plain; charset=utf-8", "application/json"
	tests := []struct {
		at           *httptest.Server
		method, path string
		code         int
		contentType  string
		words        string
	}{
		{network, "GET", "/healthz", 200, text, "ok\n"},
		{network, "HEAD", "/healthz", 200, text, ""},
		{network, "POST", "/healthz", 405, text, ""},
		{network, "GET", "/readyz", 200, text, "ok\n"},
		{network, "HEAD", "/readyz", 200, text, ""},
		{network, "DELETE", "/readyz", 405, text, ""},
		{network, "GET", "/metrics", 200, "text/plain; version=0.0.4; charset=utf-8", `version="v1.2.3"`},
		{network, "HEAD", "/metrics", 200, "text/plain; version=0.0.4; charset=utf-8", ""},
		{network, "POST", "/metrics", 405, text, ""},
		{network, "GET", "/status", 200, js, `"phase": "Serving"`},
		{network, "HEAD", "/status", 200, js, ""},
		{network, "PUT", "/status", 405, text, ""},
		{network, "POST", "/drain", 404, text, ""},
		{network, "POST", "/pause", 404, text, ""},
		{network, "POST", "/resume", 404, text, ""},
		{network, "GET", "/", 404, text, ""},
		{control, "GET", "/status", 200, js, `"phase": "Serving"`},
		{control, "POST", "/status", 405, text, ""},
		{control, "GET", "/drain", 405, text, ""},
		{control, "GET", "/pause", 405, text, ""},
		{control, "GET", "/resume", 405, text, ""},
		{control, "GET", "/metrics", 404, text, ""},
		{control, "POST", "/drain", 202, "", ""},
		{network, "GET", "/readyz", 503, text, "not accepting connections: Draining\n"},
		{network, "GET", "/healthz", 200, text, "ok\n"},
		{network, "GET", "/status", 200, js, `"condition": "control=drain"`},
	}
	for _, tt := range tests {
		resp, body := ask(t, tt.method, tt.at.URL+tt.path)
		// promhttp adds what it knows of the format's escaping.
		if got := resp.Header.Get("Content-Type"); resp.StatusCode != tt.code || !strings.HasPrefix(got, tt.contentType) || !strings.Contains(body, tt.words) {
			t.Errorf("%s %s: %d %q %q; want %d %q %q", tt.method, tt.path, resp.StatusCode, got, body, tt.code, tt.contentType, tt.words)
		}
		if c := resp.Header.Get("Cache-Control"); c != "no-store" {
			t.Errorf("%s %s: Cache-Control is %q", tt.method, tt.path, c)
		}
		if tt.method == "HEAD" && body != "" {
			t.Errorf("HEAD %s has a body: %q", tt.path, body)
		}
	}
	if srv.Phase() == nbdserver.Serving {
		t.Error("no drain has begun")
	}
}

// TestPeersAreNotPublic: who is connected is for the control socket's owner.
func TestPeersAreNotPublic(t *testing.T) {
	_, network, control := pages(t)
	for page, want := range map[*httptest.Server]bool{network: false, control: true} {
		_, body := ask(t, "GET", page.URL+"/status")
		var st nbdserver.Status
		if err := json.Unmarshal([]byte(body), &st); err != nil {
			t.Fatal(err)
		}
		if len(st.Clients) != 1 || (st.Clients[0].Peer != "") != want || strings.Contains(body, "127.0.0.1") != want {
			t.Errorf("the peer is to be seen: %v; the status is %s", want, body)
		}
	}
	if _, body := ask(t, "GET", network.URL+"/metrics"); strings.Contains(body, "127.0.0.1") {
		t.Error("a peer's address is in the metrics")
	}
}
