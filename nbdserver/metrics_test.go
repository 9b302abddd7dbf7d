package nbdserver

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// registry collects the metrics of s, and compares them with their descriptions.
func registry(s *Server) *prometheus.Registry {
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(s.Collector())
	return reg
}

// metrics are the values by series, as Prometheus writes them.
func metrics(t *testing.T, s *Server) map[string]string {
	t.Helper()
	families, err := registry(s).Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	values := map[string]string{}
	for line := range strings.Lines(b.String()) {
		if i := strings.LastIndexByte(line, ' '); line[0] != '#' {
			values[line[:i]] = strings.TrimSpace(line[i:])
		}
	}
	return values
}

func wantMetrics(t *testing.T, s *Server, want map[string]string) {
	t.Helper()
	got := metrics(t, s)
	for name, v := range want {
		if g, ok := got[name]; !ok && v != "missing" || ok && g != v {
			t.Errorf("%s is %q, not %q", name, g, v)
		}
	}
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		s.Version = "v1.2.3"
		g := gate(s)
		g.gate, g.flushErr = make(chan struct{}), &testError{syscall.EIO}
		start := time.Now()
		time.Sleep(time.Minute)
		negotiating, c := connect(t, s), connect(t, s)
		negotiating.greet(3)
		c.begin(false)
		c.request(0, wire.CmdRead, 1, 0, 4096)
		c.must(1, 0)
		c.get(4096)
		c.request(0, wire.CmdRead, 2, 1<<20, 1)
		c.must(2, wire.EINVAL)
		c.request(0, 4711, 3, 0, 1)
		c.must(3, wire.EINVAL)
		c.request(0, wire.CmdWriteZeroes, 4, 0, 1<<19)
		c.must(4, 0)
		for range 2 {
			c.request(0, wire.CmdFlush, 5, 0, 0)
			c.must(5, wire.EIO)
		}
		c.request(0, wire.CmdWrite, 6, 0, 4, "slow")
		time.Sleep(3 * time.Second)
		synctest.Wait()
		wantMetrics(t, s, map[string]string{
			`nbd_server_start_time_seconds`:                   strconv.FormatFloat(unixSeconds(start.Add(time.Minute)), 'g', -1, 64),
			`nbd_server_connections{state="negotiating"}`:     "1",
			`nbd_server_connections{state="connected"}`:       "1",
			`nbd_server_connections_accepted_total`:           "2",
			`nbd_server_requests_in_flight`:                   "1",
			`nbd_server_panics_total`:                         "0",
			`nbd_server_flush_failures_total{export="disk"}`:  "2",
			`nbd_server_phase{phase="Serving"}`:               "1",
			`nbd_server_drain_grace_seconds`:                  "+Inf",
			`nbd_server_drain_timeout_seconds`:                "+Inf",
			`nbd_server_drain_start_time_seconds`:             "missing",
			`nbd_server_exit_condition_info{condition="end"}`: "missing",

			`nbd_server_requests_total{command="read",export="disk",result="ok"}`:             "1",
			`nbd_server_requests_total{command="read",export="disk",result="einval"}`:         "1",
			`nbd_server_requests_total{command="read",export="disk",result="eio"}`:            "0",
			`nbd_server_requests_total{command="unknown",export="disk",result="einval"}`:      "1",
			`nbd_server_requests_total{command="flush",export="disk",result="eio"}`:           "2",
			`nbd_server_requests_total{command="write_zeroes",export="disk",result="ok"}`:     "1",
			`nbd_server_requests_total{command="write",export="disk",result="ok"}`:            "0",
			`nbd_server_requests_total{command="disc",export="disk",result="ok"}`:             "missing",
			`nbd_server_request_bytes_total{command="read",export="disk"}`:                    "4096",
			`nbd_server_request_bytes_total{command="write",export="disk"}`:                   "0",
			`nbd_server_request_bytes_total{command="write_zeroes",export="disk"}`:            "524288",
			`nbd_server_request_bytes_total{command="flush",export="disk"}`:                   "missing",
			`nbd_server_request_duration_seconds_count{command="read",export="disk"}`:         "1",
			`nbd_server_request_duration_seconds_count{command="write",export="disk"}`:        "0",
			`nbd_server_request_duration_seconds_count{command="flush",export="disk"}`:        "2",
			`nbd_server_request_duration_seconds_count{command="block_status",export="disk"}`: "0",
		})
		close(g.gate)
		c.must(6, 0)
		c.request(0, wire.CmdDisc, 7, 0, 0)
		c.eof()
		negotiating.Close()
		synctest.Wait()
		wantMetrics(t, s, map[string]string{
			`nbd_server_connections{state="negotiating"}`:                                        "0",
			`nbd_server_connections{state="connected"}`:                                          "0",
			`nbd_server_requests_in_flight`:                                                      "0",
			`nbd_server_requests_total{command="write",export="disk",result="ok"}`:               "1",
			`nbd_server_request_bytes_total{command="write",export="disk"}`:                      "4",
			`nbd_server_request_duration_seconds_count{command="write",export="disk"}`:           "1",
			`nbd_server_request_duration_seconds_sum{command="write",export="disk"}`:             "3",
			`nbd_server_request_duration_seconds_bucket{command="write",export="disk",le="2.5"}`: "0",
			`nbd_server_request_duration_seconds_bucket{command="write",export="disk",le="5"}`:   "1",
		})
	})
}

func TestMetricsOfTheDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		s.DrainPolicy = bounds(Refuse)
		c := connect(t, s)
		c.begin(false)
		began := strconv.FormatFloat(unixSeconds(time.Now()), 'g', -1, 64)
		s.BeginDrain("file-created=/a\n\"b\"\xff")
		time.Sleep(time.Second)
		c.request(0, wire.CmdWrite, 1, 0, 4, "data")
		c.must(1, 0)
		time.Sleep(10 * time.Second)
		c.request(0, wire.CmdWrite, 2, 0, 4, "data")
		c.must(2, wire.ESHUTDOWN)
		wantMetrics(t, s, map[string]string{
			`nbd_server_phase{phase="Serving"}`:                                                  "0",
			`nbd_server_phase{phase="Quiescing"}`:                                                "1",
			`nbd_server_drain_grace_seconds`:                                                     "10",
			`nbd_server_drain_timeout_seconds`:                                                   "30",
			`nbd_server_drain_start_time_seconds`:                                                began,
			`nbd_server_exit_condition_info{condition="file-created=/a\n\"b\"` + "\uFFFD" + `"}`: "1",
			`nbd_server_requests_total{command="write",export="disk",result="eshutdown"}`:        "1",
			// What is refused at once isn't work.
			`nbd_server_request_duration_seconds_count{command="write",export="disk"}`: "1",
		})
		c.Close()
		<-s.Done()
		wantMetrics(t, s, map[string]string{`nbd_server_phase{phase="Ended"}`: "1"})
	})
}

// TestMetricsAreBounded: whatever clients send, the number of series stays.
func TestMetricsAreBounded(t *testing.T) {
	s := newMemory(t, 1<<20)
	before := len(metrics(t, s))
	c := dial(t, listen(t, s))
	c.begin(false)
	for i := range 100 {
		c.request(wire.CommandFlags(i), wire.Command(i), uint64(i), uint64(i)<<60, 0)
		if i != int(wire.CmdDisc) {
			c.simple()
			continue
		}
		c.eof()
		c = dial(t, listen(t, s))
		c.begin(false)
	}
	if n := len(metrics(t, s)); n != before {
		t.Errorf("%d series, %d before", n, before)
	}
}

func TestMetricsLint(t *testing.T) {
	problems, err := testutil.GatherAndLint(registry(drained(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// drained is a server of which every metric is there.
func drained(t *testing.T) *Server {
	t.Helper()
	s := newMemory(t, 1<<20)
	copyOnWrite(t, s, 0)
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestMetricsAreDocumented: the table in the guide has the metrics that there
// are, in the words of their help texts.
func TestMetricsAreDocumented(t *testing.T) {
	guide, err := os.ReadFile("../docs/nbdserver.md")
	if err != nil {
		t.Fatal(err)
	}
	var table, want []string
	for line := range strings.Lines(string(guide)) {
		// The certificates' are in cmd/nbdserver, and so is their test.
		if strings.HasPrefix(line, "| `nbd_server_") && !strings.HasPrefix(line, "| `nbd_server_certificate_") {
			table = append(table, strings.TrimSpace(line))
		}
	}
	families, err := registry(drained(t)).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		line := fmt.Sprintf("| `%s` | %s | %s | %s |", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, " "), f.GetHelp())
		want = append(want, line)
		if !slices.Contains(table, line) {
			t.Errorf("docs/nbdserver.md lacks the line\n%s", line)
		}
	}
	for _, line := range table {
		if !slices.Contains(want, line) {
			t.Errorf("docs/nbdserver.md has a line that fits no metric:\n%s", line)
		}
	}
}

// TestEveryErrorIsCounted: the fixed results are all errors of the protocol, and
// every command that is served has a latency.
func TestEveryErrorIsCounted(t *testing.T) {
	for e := range wire.Errno(1000) {
		if known := !strings.HasPrefix(e.String(), "error "); known != slices.Contains(results[:], e) {
			t.Errorf("%v: known is %v, a result of its own is %v", e, known, !known)
		}
	}
	s := newMemory(t, 1<<20)
	s.init()
	for c := range allowed {
		if s.Exports[0].latency[c] == nil {
			t.Errorf("%v has no latency", c)
		}
	}
	s.Exports[0].count(wire.Request{Command: wire.CmdRead}, 4711)
	wantMetrics(t, s, map[string]string{`nbd_server_requests_total{command="read",export="disk",result="eio"}`: "1"})
}

// BenchmarkObserve is what the metrics cost each request: the counters and the
// latency, and the two looks at the clock.
func BenchmarkObserve(b *testing.B) {
	s := newMemory(b, 1<<20)
	s.init()
	c := &Conn{srv: s, export: s.Exports[0]}
	r := wire.Request{Command: wire.CmdRead, Length: 4096}
	one := func() {
		read := time.Now()
		c.count(r, 0)
		c.export.observe(r.Command, read)
	}
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			one()
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				one()
			}
		})
	})
}
