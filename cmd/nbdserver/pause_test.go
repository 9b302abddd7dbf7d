package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/nbdexport/nbdexport/nbdserver"
	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/backend/memory"
)

func TestCtlPause(t *testing.T) {
	control := "unix://" + socketDir(t) + "/ctl"
	l, err := listenControl(control)
	if err != nil {
		t.Fatal(err)
	}
	m, err := memory.New(4096)
	if err != nil {
		t.Fatal(err)
	}
	srv := &nbdserver.Server{Exports: []*nbdserver.Export{{Name: "disk", Backend: m}}}
	defer serveHTTP(l, controlPages(srv, newReloader(zap.NewNop())), zap.NewNop())()
	lasts := func() time.Duration {
		st := srv.Status()
		if !st.Paused {
			return 0
		}
		return st.PauseEndsAt.Sub(*st.PauseStartedAt)
	}
	for _, tt := range []struct {
		args string
		why  string
		want time.Duration // of the pause, rounded
	}{
		{"resume", "resume: the server answered 409 Conflict: the server wasn't paused", 0},
		{"pause --timeout 0s", `pause: the server answered 400 Bad Request: timeout: "0" is no time for a pause: write seconds, 3600 at most`, 0},
		{"pause --timeout 3601s", "400", 0},
		{"pause --timeout -20s", "400", 0},
		{"status --timeout 10s", "--timeout goes with pause only", 0},
		{"pause", "", time.Minute},
		{"pause", "", time.Minute},
		{"pause --timeout 2m1500ms", "", 2*time.Minute + 1500*time.Millisecond},
		{"resume", "", 0},
		{"resume", "409", 0},
		{"pause --timeout 1h", "", time.Hour},
		{"drain", "", 0},
		{"resume", "409", 0},
		{"pause", "pause: the server answered 500 Internal Server Error: not paused: the server drains", 0},
	} {
		c := command()
		c.SetArgs(append([]string{"ctl", "--control", control}, strings.Fields(tt.args)...))
		if err := c.Execute(); (err == nil) != (tt.why == "") || err != nil && !strings.Contains(err.Error(), tt.why) {
			t.Errorf("%s: %v, want %q", tt.args, err, tt.why)
		}
		if got := lasts().Truncate(500 * time.Millisecond); got != tt.want {
			t.Errorf("%s: a pause of %v, want %v", tt.args, got, tt.want)
		}
	}
}

// ctl waits for as long as the server may take.
func TestCtlRequest(t *testing.T) {
	for do, want := range map[string]string{
		"drain": "POST drain 10s", "reload": "POST reload 10s", "resume": "POST resume 10s", "status": "GET status 10s",
		"pause": "POST pause?timeout=90.5 1m40.5s",
	} {
		method, what, patience := ctlRequest(do, 90500*time.Millisecond)
		if got := fmt.Sprint(method, " ", what, " ", patience); got != want {
			t.Errorf("%s: %s, want %s", do, got, want)
		}
	}
}

func TestPauseTimeoutIsChecked(t *testing.T) {
	srv, network, control := pages(t)
	for _, timeout := range []string{"1m", "NaN", "Inf", "-1", "0", "3600.1", "1e300", "%00"} {
		if resp, body := ask(t, "POST", control.URL+"/pause?timeout="+timeout); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("timeout=%s: %s %s", timeout, resp.Status, body)
		}
	}
	if resp, body := ask(t, "POST", control.URL+"/pause"); resp.StatusCode != http.StatusOK || !srv.Status().Paused {
		t.Errorf("%s %s", resp.Status, body)
	}
	if resp, body := ask(t, "GET", network.URL+"/readyz"); resp.StatusCode != http.StatusOK {
		t.Errorf("while it is paused the server isn't ready: %s %s", resp.Status, body)
	}
}

// slow is a volume whose writes wait.
type slow struct {
	backend.Backend
	gate chan struct{}
}

func (s slow) WriteAt(ctx context.Context, p []byte, off uint64) error {
	<-s.gate
	return s.Backend.WriteAt(ctx, p, off)
}

// A pause may take its time, longer than any other page; who doesn't wait for it
// undoes it.
func TestPauseTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := memory.New(4096)
		if err != nil {
			t.Fatal(err)
		}
		volume := slow{m, make(chan struct{})}
		srv := &nbdserver.Server{Exports: []*nbdserver.Export{{Name: "disk", Backend: volume}}}
		nbd := &pipeListener{dialed: make(chan net.Conn), closed: make(chan struct{})}
		go srv.Serve(nbd)
		control := &pipeListener{dialed: make(chan net.Conn), closed: make(chan struct{})}
		defer serveHTTP(control, controlPages(srv, newReloader(zap.NewNop())), zap.NewNop())()
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			control.dialed <- there
			return here, nil
		}}}
		post := func(ctx context.Context, what string) (int, string, error) {
			req, err := http.NewRequestWithContext(ctx, "POST", "http://server/"+what, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				return 0, "", err
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return resp.StatusCode, string(body), err
		}
		nc := dial(t, nbd)
		choose(t, nc, optGo, "\x00\x00\x00\x00\x00\x00")
		write := make([]byte, 28+512)
		binary.BigEndian.PutUint32(write, 0x25609513)
		write[7], write[26] = 1, 2
		if _, err := nc.Write(write); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()

		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if code, body, err := post(ctx, "pause?timeout=3600"); err == nil {
			t.Errorf("%d %q", code, body)
		}
		synctest.Wait()
		if st := srv.Status(); st.PauseStartedAt != nil {
			t.Error("the pause of nobody goes on")
		}
		code, body, err := post(t.Context(), "pause?timeout=45")
		if want := "not paused: its time is over: resume earlier, or give it more\n"; code != 500 || body != want || err != nil {
			t.Errorf("%d %q, %v", code, body, err)
		}
		go func() {
			time.Sleep(50 * time.Minute)
			close(volume.gate)
			io.ReadFull(nc, write[:16])
		}()
		if code, body, err := post(t.Context(), "pause?timeout=3600"); code != 200 || body != "" || err != nil {
			t.Errorf("%d %q, %v", code, body, err)
		}
		if code, body, err := post(t.Context(), "resume"); code != 200 || body != "" || err != nil {
			t.Errorf("%d %q, %v", code, body, err)
		}
		nc.Close()
		srv.BeginDrain("test")
		<-srv.Done()
	})
}
