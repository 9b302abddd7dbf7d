package interop

import (
	"encoding/json"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/nbdexport/nbdexport/nbdserver"
)

func TestControl(t *testing.T) {
	t.Parallel()
	s := start(t, config{volumes: []string{"disk=memory:1M"}})
	if st, err := os.Stat(s.ctl); err != nil || st.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the control socket has mode %v, %v", st.Mode(), err)
	}
	c := s.connect("tcp")
	c.read(0, 4096)
	st := s.status()
	if st.Phase != "Serving" || st.Connections != 1 || len(st.Exports) != 1 {
		t.Errorf("the status is %+v", st)
	} else if e := st.Exports[0]; e != (nbdserver.ExportStatus{Name: "disk", Size: mib, BytesRead: 4096}) {
		t.Errorf("the export's status is %+v", e)
	}
	for range 2 { // to ask twice is no error
		must(t, raceBinary, "ctl", "--control", "unix://"+s.ctl, "drain")
	}
	s.awaitRefusal()
	if st := s.status(); st.Phase != "Draining" || st.Condition != "control=drain" || st.DrainStartedAt == nil {
		t.Errorf("the status is %+v", st)
	}
	c.disconnect()
	s.ended(0, "control=drain")
	r := do(t, command(t, raceBinary, "ctl", "--control", "unix://"+s.ctl, "status"))
	if r.code != 1 {
		t.Errorf("ctl without a server: exit code %d", r.code)
	}
	contains(t, r.stderr, "--control: no server answers at "+s.ctl)
}

// TestDrainIsAnswered: the end of an idle server doesn't overtake the answer to
// the request that asked for it.
func TestDrainIsAnswered(t *testing.T) {
	t.Parallel()
	for range 10 {
		s := start(t, config{volumes: []string{"memory:1M"}, plain: true})
		must(t, plainBinary, "ctl", "--control", "unix://"+s.ctl, "drain")
		s.ended(0, "control=drain")
	}
}

// freePort is a port of the loopback that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func ask(t *testing.T, method, url string) (int, string) {
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
	return resp.StatusCode, string(body)
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	addr := freePort(t)
	s := start(t, config{volumes: []string{"disk=memory:1M"}, flags: []string{"--http", addr}})
	base := "http://" + addr
	c := s.connect("tcp")
	c.read(0, 4096)
	c.put(request(0, cmdRead, 1, mib, 1)) // fails
	c.reply()

	for _, path := range []string{"/healthz", "/readyz"} {
		if code, body := ask(t, "GET", base+path); code != 200 || body != "ok\n" {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	var st nbdserver.Status
	if code, body := ask(t, "GET", base+"/status"); code != 200 || json.Unmarshal([]byte(body), &st) != nil || st.Connections != 1 {
		t.Errorf("/status: %d %s", code, body)
	}
	checkMetrics(t, base+"/metrics", map[string]float64{
		`nbd_server_phase{phase="Serving"}`:                                       1,
		`nbd_server_phase{phase="Draining"}`:                                      0,
		`nbd_server_connections{state="connected"}`:                               1,
		`nbd_server_connections{state="negotiating"}`:                             0,
		`nbd_server_connections_accepted_total`:                                   1,
		`nbd_server_connections_refused_total{reason="too_many"}`:                 0,
		`nbd_server_requests_in_flight`:                                           0,
		`nbd_server_panics_total`:                                                 0,
		`nbd_server_request_bytes_total{export="disk",command="read"}`:            4096,
		`nbd_server_request_bytes_total{export="disk",command="write"}`:           0,
		`nbd_server_requests_total{export="disk",command="read",result="ok"}`:     1,
		`nbd_server_requests_total{export="disk",command="read",result="einval"}`: 1,
	})

	// The network can't change anything.
	for _, method := range []string{"POST", "GET", "PUT"} {
		if code, _ := ask(t, method, base+"/drain"); code != http.StatusNotFound && code != http.StatusMethodNotAllowed {
			t.Errorf("%s /drain: %d", method, code)
		}
	}
	for _, path := range []string{"/status", "/metrics", "/healthz"} {
		if code, _ := ask(t, "POST", base+path); code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", path, code)
		}
	}
	if phase := s.status().Phase; phase != "Serving" {
		t.Errorf("the phase is %s", phase)
	}

	must(t, raceBinary, "ctl", "--control", "unix://"+s.ctl, "drain")
	s.awaitRefusal()
	if code, body := ask(t, "GET", base+"/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "Draining") {
		t.Errorf("/readyz in a drain: %d %q", code, body)
	}
	if code, _ := ask(t, "GET", base+"/healthz"); code != 200 {
		t.Errorf("/healthz in a drain: %d", code)
	}
	checkMetrics(t, base+"/metrics", map[string]float64{
		`nbd_server_phase{phase="Serving"}`:  0,
		`nbd_server_phase{phase="Draining"}`: 1,
	})
	c.disconnect()
	s.ended(0, "control=drain")
}

// checkMetrics reads a metrics page with Prometheus' own parser and compares
// some of its values.
func checkMetrics(t *testing.T, url string, want map[string]float64) {
	t.Helper()
	code, body := ask(t, "GET", url)
	if code != 200 {
		t.Fatalf("%s: %d %s", url, code, body)
	}
	got := parseMetrics(t, body)
	for name, v := range want {
		if g, ok := got[name]; !ok || g != v {
			t.Errorf("%s is %v (there: %v), want %v", name, g, ok, v)
		}
	}
	for _, name := range []string{"go_goroutines", "process_resident_memory_bytes"} {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
}

// parseMetrics returns the values by series; of histograms the counts.
func parseMetrics(t *testing.T, page string) map[string]float64 {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for name, family := range families {
		for _, m := range family.Metric {
			labels := map[string]string{}
			for _, l := range m.Label {
				labels[l.GetName()] = l.GetValue()
			}
			// One of the three is there, the others are 0.
			got[series(name, labels)] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return got
}

// series writes a name and labels as Prometheus does.
func series(name string, labels map[string]string) string {
	var all []string
	for _, l := range []string{"export", "command", "result", "phase", "state", "reason"} {
		if v, ok := labels[l]; ok {
			all = append(all, l+`="`+v+`"`)
		}
	}
	if len(all) == 0 {
		return name
	}
	return name + "{" + strings.Join(all, ",") + "}"
}
