package nbdserver

import (
	"math"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nbdexport/nbdexport/nbdserver/report"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// What the metrics mean is in docs/nbdserver.md too; a test compares the two.
var (
	descBuild = prometheus.NewDesc("nbd_server_build_info",
		"Always 1; the labels say what was built.", []string{"version", "goversion", "revision"}, nil)
	descStart = prometheus.NewDesc("nbd_server_start_time_seconds",
		"Unix time at which the server started.", nil, nil)
	descConnections = prometheus.NewDesc("nbd_server_connections",
		"Connections that are open now, by state: negotiating or connected.", []string{"state"}, nil)
	descAccepted = prometheus.NewDesc("nbd_server_connections_accepted_total",
		"Connections that were accepted, those that were refused among them.", nil, nil)
	descInFlight = prometheus.NewDesc("nbd_server_requests_in_flight",
		"Requests that are being worked on.", nil, nil)
	descRequests = prometheus.NewDesc("nbd_server_requests_total",
		"Requests that were answered, by result: ok, or the error's name in the NBD specification.", []string{"export", "command", "result"}, nil)
	descBytes = prometheus.NewDesc("nbd_server_request_bytes_total",
		"Bytes that successful requests were about: of reads and writes the payload, of others the length of the range.", []string{"export", "command"}, nil)
	descFlushFailures = prometheus.NewDesc("nbd_server_flush_failures_total",
		"Flushes that failed. Once one has, data may be lost and every later one of the export fails too.", []string{"export"}, nil)
	descScratch = prometheus.NewDesc("nbd_server_scratch_bytes",
		"Bytes that the scratch of a copy-on-write volume holds.", []string{"export"}, nil)
	descScratchLimit = prometheus.NewDesc("nbd_server_scratch_limit_bytes",
		"Bytes that the scratch of a copy-on-write volume may hold; +Inf without a limit.", []string{"export"}, nil)
	descScratchRefused = prometheus.NewDesc("nbd_server_scratch_refused_total",
		"Writes that failed because the scratch of a copy-on-write volume, or its disk, was full.", []string{"export"}, nil)
	descPanics = prometheus.NewDesc("nbd_server_panics_total",
		"Panics that were survived. One in a request costs the connection that it came from.", nil, nil)
	descPaused = prometheus.NewDesc("nbd_server_paused",
		"1 while requests wait for the end of a pause, else 0.", nil, nil)
	descPhase = prometheus.NewDesc("nbd_server_phase",
		"1 for the phase that the server is in, 0 for the others.", []string{"phase"}, nil)
	descGrace = prometheus.NewDesc("nbd_server_drain_grace_seconds",
		"How long a drain serves connected clients as ever; +Inf without a bound.", nil, nil)
	descTimeout = prometheus.NewDesc("nbd_server_drain_timeout_seconds",
		"When a drain cuts off the clients that are left, from its beginning; +Inf without a bound.", nil, nil)
	descDrainStart = prometheus.NewDesc("nbd_server_drain_start_time_seconds",
		"Unix time at which the drain began; there from then on.", nil, nil)
	descCondition = prometheus.NewDesc("nbd_server_exit_condition_info",
		"Always 1; the label says what began the drain. There from then on.", []string{"condition"}, nil)
)

// descs are those of all metrics but the latency, which describes itself.
var descs = []*prometheus.Desc{descBuild, descStart, descConnections, descAccepted, descRefused, descStalled, descInFlight, descRequests,
	descBytes, descFlushFailures, descScratch, descScratchLimit, descScratchRefused, descPanics, descPaused, descPhase, descGrace, descTimeout, descDrainStart, descCondition}

// Collector returns the server's metrics for a Prometheus registry.
func (s *Server) Collector() prometheus.Collector {
	s.init()
	return collector{s}
}

type collector struct{ s *Server }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descs {
		ch <- d
	}
	c.s.latency.Describe(ch)
}

// Collect implements prometheus.Collector. It may be called at any time.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, t, v, labels...)
	}
	s := c.s
	send(descBuild, prometheus.GaugeValue, 1, label(s.Version), runtime.Version(), revision())
	send(descStart, prometheus.GaugeValue, unixSeconds(s.started))

	states := map[ConnState]int{}
	for _, c := range s.connections() {
		states[ConnState(c.state.Load())]++
	}
	for _, st := range []ConnState{StateNegotiating, StateConnected} {
		send(descConnections, prometheus.GaugeValue, float64(states[st]), st.String())
	}
	send(descAccepted, prometheus.CounterValue, float64(s.accepted.Load()))
	s.collectAdmission(send)
	send(descInFlight, prometheus.GaugeValue, float64(s.inFlight.Load()))
	send(descPanics, prometheus.CounterValue, float64(s.panics.Load()))
	paused := 0.0
	if s.pause.Load() != nil {
		paused = 1
	}
	send(descPaused, prometheus.GaugeValue, paused)
	c.drain(send)

	s.latency.Collect(ch)
	for _, e := range s.Exports {
		name := label(e.Name)
		send(descFlushFailures, prometheus.CounterValue, float64(e.flusher.failures.Load()), name)
		if st := e.status(); st.ScratchBytes != nil {
			limit := math.Inf(1)
			if st.ScratchLimit != nil {
				limit = float64(*st.ScratchLimit)
			}
			send(descScratch, prometheus.GaugeValue, float64(*st.ScratchBytes), name)
			send(descScratchLimit, prometheus.GaugeValue, limit, name)
			send(descScratchRefused, prometheus.CounterValue, float64(*st.ScratchRefused), name)
		}
		for i := range e.requests {
			if i == int(wire.CmdDisc) {
				continue // it has no answer
			}
			// Those that are 0 too: what shows up with a value of 1 never grew,
			// for Prometheus.
			for j := range results {
				send(descRequests, prometheus.CounterValue, float64(e.requests[i][j].Load()), name, commandName(i), resultName(j))
			}
			if e.latency[i] != nil && i != int(wire.CmdFlush) {
				send(descBytes, prometheus.CounterValue, float64(e.bytes[i].Load()), name, commandName(i))
			}
		}
	}
}

// drain collects what the drain is about.
func (c collector) drain(send func(*prometheus.Desc, prometheus.ValueType, float64, ...string)) {
	c.s.mu.Lock()
	phase, condition, began := c.s.phase, c.s.report.Condition, c.s.report.StartedAt
	c.s.mu.Unlock()
	for p := Serving; p <= Ended; p++ {
		v := 0.0
		if p == phase {
			v = 1
		}
		send(descPhase, prometheus.GaugeValue, v, p.String())
	}
	policy := c.s.policy()
	send(descGrace, prometheus.GaugeValue, seconds(policy.Grace))
	send(descTimeout, prometheus.GaugeValue, seconds(policy.Timeout))
	if phase != Serving {
		send(descDrainStart, prometheus.GaugeValue, unixSeconds(began))
		send(descCondition, prometheus.GaugeValue, 1, label(report.Brief(condition)))
	}
}

// seconds is a duration that may be Infinite.
func seconds(d time.Duration) float64 {
	if d == Infinite {
		return math.Inf(1)
	}
	return d.Seconds()
}

func unixSeconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

// revision is the commit that the program was built from, empty if it doesn't
// know.
var revision = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	rev := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			rev = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			rev += "-dirty"
		}
	}
	return rev
})
