package nbdserver

import (
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// commands is the number of commands that are counted apart; the last place is
// for those that nobody knows.
const commands = int(wire.CmdBlockStatus) + 2

// results are the results that are counted apart. They are fixed, so that no
// client and no disk can make up new time series.
var results = [...]wire.Errno{0, wire.EPERM, wire.EIO, wire.ENOMEM, wire.EINVAL, wire.ENOSPC, wire.EOVERFLOW, wire.ENOTSUP, wire.ESHUTDOWN}

// counters are what the requests of an export add up to. To count takes no lock
// and looks up no label.
type counters struct {
	requests [commands][len(results)]atomic.Uint64
	bytes    [commands]atomic.Uint64 // of the requests that succeeded
	latency  [commands]prometheus.Observer
}

// The buckets of the latency, in seconds. A read from the page cache takes tens
// of microseconds, one from flash or over a network hundreds, from a spinning disk
// 10 ms; a flush takes as long as the kernel has pages to write back, and after
// 10 s it doesn't matter how many more. A quantile is off by 2 to 2.5 at most,
// which is the step.
var latencyBuckets = []float64{50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// newLatency makes the histogram. It is one of fixed buckets because every
// Prometheus can read that, and because to observe takes a few atomic
// additions and never a lock.
func newLatency() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "nbd_server_request_duration_seconds",
		Help:    "Time from a request having been read, its payload included, to its reply being handed to the kernel.",
		Buckets: latencyBuckets,
	}, []string{"export", "command"})
}

func (n *counters) init(latency *prometheus.HistogramVec, export string) {
	for i := range n.latency {
		if c := wire.Command(i); c != wire.CmdDisc && i < commands-1 {
			n.latency[i] = latency.WithLabelValues(label(export), c.String())
		}
	}
}

// count counts a request that was answered, of whatever command.
func (n *counters) count(r wire.Request, e wire.Errno) {
	i, j := min(int(r.Command), commands-1), slices.Index(results[:], e)
	if j < 0 {
		j = slices.Index(results[:], wire.EIO)
	}
	n.requests[i][j].Add(1)
	if e == 0 {
		n.bytes[i].Add(r.Length)
	}
}

// observe notes how long a request took that had been read at the time given.
func (n *counters) observe(c wire.Command, read time.Time) {
	n.latency[c].Observe(time.Since(read).Seconds())
}

// count counts a request that is answered now.
func (c *Conn) count(r wire.Request, e wire.Errno) {
	c.export.count(r, e)
	switch {
	case e != 0:
		c.errors.Add(1)
	case r.Command == wire.CmdRead:
		c.read.Add(r.Length)
	case r.Command == wire.CmdWrite:
		c.written.Add(r.Length)
	}
}

// commandName is the label of a counted command.
func commandName(i int) string {
	if i == commands-1 {
		return "unknown"
	}
	return wire.Command(i).String()
}

// resultName is the label of a counted result.
func resultName(j int) string { return strings.ToLower(results[j].String()) }

// label makes a string fit for a label, which must be UTF-8. The path of an exit
// condition can be anything.
func label(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
