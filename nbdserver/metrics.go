package nbdserver

import "github.com/prometheus/client_golang/prometheus"

var (
	descConnections = prometheus.NewDesc("nbd_server_connections",
		"Connections that are open now.", nil, nil)
	descAccepted = prometheus.NewDesc("nbd_server_connections_accepted_total",
		"Connections that were accepted, those that were refused among them.", nil, nil)
	descInFlight = prometheus.NewDesc("nbd_server_requests_in_flight",
		"Requests that are being worked on.", nil, nil)
	descRequests = prometheus.NewDesc("nbd_server_requests_total",
		"Requests that were answered, by export, command and result.", []string{"export", "command", "result"}, nil)
	descRead = prometheus.NewDesc("nbd_server_read_bytes_total",
		"Payload of successful reads.", []string{"export"}, nil)
	descWritten = prometheus.NewDesc("nbd_server_written_bytes_total",
		"Payload of successful writes.", []string{"export"}, nil)
	descPhase = prometheus.NewDesc("nbd_server_phase",
		"1 for the phase that the server is in, 0 for the others.", []string{"phase"}, nil)
	descPanics = prometheus.NewDesc("nbd_server_panics_total",
		"Panics that each cost a connection.", nil, nil)
)

// Collector returns the server's metrics for a Prometheus registry.
func (s *Server) Collector() prometheus.Collector {
	s.init()
	return collector{s}
}

type collector struct{ s *Server }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector. It may be called at any time.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, t, v, labels...)
	}
	s := c.s
	phase := s.Phase()
	for p := Serving; p <= Ended; p++ {
		v := 0.0
		if p == phase {
			v = 1
		}
		send(descPhase, prometheus.GaugeValue, v, p.String())
	}
	send(descConnections, prometheus.GaugeValue, float64(len(s.connections())))
	send(descAccepted, prometheus.CounterValue, float64(s.accepted.Load()))
	s.collectAdmission(send)
	send(descInFlight, prometheus.GaugeValue, float64(s.inFlight.Load()))
	send(descPanics, prometheus.CounterValue, float64(s.panics.Load()))
	for _, e := range s.Exports {
		send(descRead, prometheus.CounterValue, float64(e.read.Load()), e.Name)
		send(descWritten, prometheus.CounterValue, float64(e.written.Load()), e.Name)
		for i := range e.requests {
			for j, result := range []string{"ok", "error"} {
				send(descRequests, prometheus.CounterValue, float64(e.requests[i][j].Load()), e.Name, commandName(i), result)
			}
		}
	}
}
