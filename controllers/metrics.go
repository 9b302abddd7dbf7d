package controllers

import (
	"context"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/nbdserver/report"
)

var (
	descBuild = prometheus.NewDesc("nbdexport_build_info",
		"Always 1; the labels say what was built.", []string{"version", "goversion", "revision"}, nil)
	descExports = prometheus.NewDesc("nbdexport_exports",
		"NBDExports by the status and reason of each of their conditions. Those of Ready are all that there are.",
		[]string{"condition", "status", "reason"}, nil)
	descUnready = prometheus.NewDesc("nbdexport_exports_not_ready_since_timestamp_seconds",
		"Unix time since when an NBDExport that hasn't ended isn't ready: the earliest, by the reason that it has now.",
		[]string{"reason"}, nil)
)

// Metrics are the operator's own. It is a prometheus.Collector, and may be asked at any time.
type Metrics struct {
	version string
	exports client.Reader
	leading <-chan struct{}

	ready  prometheus.Histogram
	drains *prometheus.CounterVec
}

// NewMetrics makes Metrics of an operator of this version that reads exports from a cache, and
// leads from when a channel is closed: of several operators one must count them.
func NewMetrics(version string, exports client.Reader, leading <-chan struct{}) *Metrics {
	m := &Metrics{
		version: version, exports: exports, leading: leading,
		ready: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "nbdexport_time_to_ready_seconds",
			Help:    "Time from the creation of an NBDExport to when clients could connect for the first time, in whole seconds.",
			Buckets: []float64{1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600},
		}),
		drains: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nbdexport_drains_total",
			Help: "Servers that have ended, whether their export has or not, by result as in the reasons of Complete.",
		}, []string{"result"}),
	}
	// Those that are 0 too: what shows up with a value of 1 never grew, for Prometheus.
	for _, result := range results {
		m.drains.WithLabelValues(result)
	}
	return m
}

// results are those of outcome and unreported.
var results = []string{v1alpha1.ReasonDrained, v1alpha1.ReasonClientsCutOff, v1alpha1.ReasonFlushFailed,
	v1alpha1.ReasonServerFailed, v1alpha1.ReasonServerKilled, v1alpha1.ReasonReportLost}

// count counts what a new status of an export says for the first time.
func (m *Metrics) count(e *v1alpha1.NBDExport, before v1alpha1.NBDExportStatus) {
	if at := e.GetStatus().FirstReadyAt; at != nil && before.FirstReadyAt == nil {
		m.ready.Observe(max(at.Sub(e.CreationTimestamp.Time), 0).Seconds())
	}
}

// drained counts a pod that is over. It has to be called once for each.
func (m *Metrics) drained(pod *corev1.Pod) {
	r, t, reported := lastReport(pod)
	switch {
	case reported:
		m.drains.WithLabelValues(outcome(r)).Inc()
	case neverServed(pod):
	default:
		m.drains.WithLabelValues(unreported(t)).Inc()
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descBuild, descExports, descUnready} {
		ch <- d
	}
	m.ready.Describe(ch)
	m.drains.Describe(ch)
}

// Collect implements prometheus.Collector. It reads the cache only.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(descBuild, prometheus.GaugeValue, 1, m.version, runtime.Version(), revision())
	m.ready.Collect(ch)
	m.drains.Collect(ch)
	select {
	case <-m.leading:
	default:
		return
	}
	// A cache that isn't there yet must not hold up who asks.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var list v1alpha1.NBDExportList
	if err := m.exports.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		ctrl.Log.Error(err, "can't count the exports for the metrics")
		return
	}
	states, unready := statesOf(list.Items)
	for s, n := range states {
		ch <- prometheus.MustNewConstMetric(descExports, prometheus.GaugeValue, n, s.condition, s.status, s.reason)
	}
	for reason, since := range unready {
		ch <- prometheus.MustNewConstMetric(descUnready, prometheus.GaugeValue, float64(since.Unix()), reason)
	}
}

// state is that of a condition.
type state struct{ condition, status, reason string }

// ownConditions are the conditions that are counted. Somebody else may add some
// of any number.
var ownConditions = []string{v1alpha1.ConditionReady, v1alpha1.ConditionProgressing, v1alpha1.ConditionComplete,
	v1alpha1.ConditionFailed, v1alpha1.ConditionDegraded}

// statesOf counts exports by their conditions, and finds since when those of each reason
// that haven't ended aren't ready.
func statesOf(exports []v1alpha1.NBDExport) (states map[state]float64, unready map[string]time.Time) {
	states, unready = map[state]float64{}, map[string]time.Time{}
	for i := range exports {
		e := &exports[i]
		if len(e.GetStatus().Conditions) == 0 {
			states[state{v1alpha1.ConditionReady, string(metav1.ConditionUnknown), "Unknown"}]++
		}
		for _, c := range e.GetStatus().Conditions {
			if !slices.Contains(ownConditions, c.Type) {
				continue
			}
			states[state{c.Type, string(c.Status), c.Reason}]++
			if c.Type != v1alpha1.ConditionReady || c.Status != metav1.ConditionFalse || isComplete(e) {
				continue
			}
			if since, ok := unready[c.Reason]; !ok || c.LastTransitionTime.Time.Before(since) {
				unready[c.Reason] = c.LastTransitionTime.Time
			}
		}
	}
	return states, unready
}

// outcome is the reason of Complete that a report stands for.
func outcome(r report.Report) string {
	switch {
	case r.Clean():
		return v1alpha1.ReasonDrained
	case r.ExitCode == report.ExitFlushFailed:
		return v1alpha1.ReasonFlushFailed
	case r.ExitCode == report.ExitClientsCut:
		return v1alpha1.ReasonClientsCutOff
	}
	return v1alpha1.ReasonServerFailed
}

// unreported is the reason of Complete for a server that left no report, but may have
// served. An exit code of its own says that it was killed; one that the kubelet made
// up, and none at all, say nothing.
func unreported(t *corev1.ContainerStateTerminated) string {
	if t == nil || t.ExitCode == 0 || t.Reason == statusUnknown {
		return v1alpha1.ReasonReportLost
	}
	return v1alpha1.ReasonServerKilled
}

// revision is the commit that the program was built from, empty if it doesn't know.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}
