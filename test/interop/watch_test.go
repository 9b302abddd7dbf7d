package interop

import (
	"encoding/json"
	"maps"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver"
)

// TestMetricsOfACopy: the metrics tell what nbdcopy does, to the byte.
func TestMetricsOfACopy(t *testing.T) {
	t.Parallel()
	const size = 16 * mib
	addr := freePort(t)
	image := newImage(t, "disk.img", []extent{{0, size, true}})
	s := start(t, config{volumes: []string{"disk=" + image, "copy=memory:16M"}, flags: []string{"--http", addr}})
	scrape := func() map[string]float64 {
		code, body := ask(t, "GET", "http://"+addr+"/metrics")
		if code != 200 {
			t.Fatalf("%d %s", code, body)
		}
		return parseMetrics(t, body)
	}
	before := scrape()
	must(t, "nbdcopy", "--flush", s.uris["tcp"][0], s.uris["tcp"][1])
	var after map[string]float64
	eventually(t, "nbdcopy's connections are over", func() bool {
		after = scrape()
		return after[`nbd_server_connections{state="connected"}`] == 0
	})
	grown := func(name string) float64 {
		v, ok := after[name]
		if _, there := before[name]; !ok || !there {
			t.Errorf("%s: there before %v, after %v", name, there, ok)
		}
		return v - before[name]
	}
	for _, tt := range []struct{ export, command string }{{"disk", "read"}, {"copy", "write"}} {
		labels := `{export="` + tt.export + `",command="` + tt.command + `"`
		if n := grown("nbd_server_request_bytes_total" + labels + "}"); n != size {
			t.Errorf("%s: %v bytes, not %d", labels, n, size)
		}
		ok, timed := grown("nbd_server_requests_total"+labels+`,result="ok"}`), grown("nbd_server_request_duration_seconds"+labels+"}")
		if ok == 0 || ok != timed {
			t.Errorf("%s: %v requests, %v of them with a latency", labels, ok, timed)
		}
	}
	if n := grown(`nbd_server_requests_total{export="copy",command="flush",result="ok"}`); n == 0 {
		t.Error("no flush was counted")
	}
	if n := grown("nbd_server_connections_accepted_total"); n < 2 {
		t.Errorf("%v connections", n)
	}
	for name, v := range after {
		if strings.Contains(name, "result=") && !strings.Contains(name, `result="ok"`) && v != 0 {
			t.Errorf("%s is %v", name, v)
		}
	}
}

// TestPromtool has the page checked by Prometheus' own tool, at rest and with
// everything that a drain adds.
func TestPromtool(t *testing.T) {
	t.Parallel()
	addr := freePort(t)
	s := start(t, config{volumes: []string{"disk=memory:1M", "näme \"x\"=memory:1M"}, flags: []string{"--http", addr}})
	c := s.connect("tcp")
	c.read(0, 4096)
	for _, phase := range []string{"Serving", "Draining"} {
		_, body := ask(t, "GET", "http://"+addr+"/metrics")
		contains(t, body, `nbd_server_phase{phase="`+phase+`"} 1`)
		check := command(t, promtool(), "check", "metrics")
		check.Stdin = strings.NewReader(body)
		if r := do(t, check); r.code != 0 || r.stdout+r.stderr != "" {
			t.Errorf("%s: promtool's exit code is %d\n%s%s", phase, r.code, r.stdout, r.stderr)
		}
		must(t, raceBinary, "ctl", "--control", "unix://"+s.ctl, "drain")
		s.awaitRefusal()
	}
	c.disconnect()
	s.ended(0, "control=drain")
}

// TestStatusInADrain: the status tells why the server ends, who is left and when
// it is over at the latest; the clients' addresses stay with the control socket.
func TestStatusInADrain(t *testing.T) {
	t.Parallel()
	addr := freePort(t)
	s := start(t, config{volumes: []string{"disk=memory:1M"}, flags: []string{"--http", addr, "--drain-grace", "1h", "--drain-timeout", "2h"}})
	c := s.connect("tcp")
	c.read(0, 4096)
	s.signal(syscall.SIGTERM)
	s.awaitRefusal()
	_, body := ask(t, "GET", "http://"+addr+"/status")
	var public nbdserver.Status
	if err := json.Unmarshal([]byte(body), &public); err != nil {
		t.Fatal(err)
	}
	private := s.status()
	for name, st := range map[string]nbdserver.Status{"network": public, "control": private} {
		if st.Phase != "Draining" || st.Condition != "signal=SIGTERM" || st.Version == "" || time.Since(st.StartedAt) > time.Hour {
			t.Errorf("%s: %+v", name, st)
		}
		d := st.Drain
		if st.DrainStartedAt == nil || d.GraceEndsAt == nil || d.TimeoutEndsAt == nil ||
			d.GraceEndsAt.Sub(*st.DrainStartedAt) != time.Hour || d.TimeoutEndsAt.Sub(*st.DrainStartedAt) != 2*time.Hour {
			t.Errorf("%s: the bounds are %+v from %v on", name, d, st.DrainStartedAt)
		}
		if len(st.Clients) != 1 || st.Clients[0].State != "connected" || st.Clients[0].Export != "disk" || st.Clients[0].BytesRead != 4096 {
			t.Errorf("%s: the clients are %+v", name, st.Clients)
		}
	}
	if strings.Contains(body, c.LocalAddr().String()) || private.Clients[0].Peer != c.LocalAddr().String() {
		t.Errorf("%s is in %s or not in %+v", c.LocalAddr(), body, private.Clients)
	}
	c.disconnect()
	s.ended(0, "signal=SIGTERM")
}

// TestLog: of a copy and some probes, the log has one line for each connection of
// the copy, one for each phase, and nothing of the probes.
func TestLog(t *testing.T) {
	t.Parallel()
	s := start(t, config{volumes: []string{"disk=memory:1M"}, flags: []string{"--log-format", "json"}})
	for range 5 {
		for network, addr := range map[string]string{"tcp": s.tcp(), "unix": s.socket} {
			c, err := net.Dial(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
	}
	must(t, "nbdcopy", "--connections=2", s.uri("tcp"), "null:")
	must(t, "nbdinfo", "--size", s.uri("unix"))
	s.signal(syscall.SIGTERM)
	s.ended(0, "signal=SIGTERM")
	seen := map[string]int{}
	for line := range strings.Lines(s.stderr.String()) {
		var entry struct{ Level, Msg, Peer, Phase, Ended, Export string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		seen[strings.TrimSpace(entry.Level+" "+entry.Msg+" "+entry.Phase)]++
		if entry.Msg == "connection" && (entry.Peer == "" || entry.Ended != "client disconnected" || entry.Export != "disk") {
			t.Errorf("a connection's line is %s", line)
		}
	}
	if n := seen["info connection"]; n < 2 {
		t.Errorf("%d connections in the log", n)
	}
	delete(seen, "info connection")
	want := map[string]int{"info listening": 2, "info drain Draining": 1, "info drain Closing": 1, "info drain Ended": 1}
	if !maps.Equal(seen, want) {
		t.Errorf("the log has %v, not %v", seen, want)
	}
}
