package controllers

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/nbdserver/report"
)

// fullCache is a cache with exports and Secrets in it.
type fullCache struct {
	client.Reader
	exports []v1alpha1.NBDExport
	secrets []corev1.Secret
}

func (c fullCache) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	switch list := list.(type) {
	case *v1alpha1.NBDExportList:
		list.Items = c.exports
	case *corev1.SecretList:
		list.Items = slices.Clone(c.secrets)
	}
	return nil
}

// leads is what an operator's Elected is once it leads.
func leads() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// exportIn is an export after some verdicts, the last of which is from the time given.
func exportIn(at time.Time, say ...[]verdict) v1alpha1.NBDExport {
	e := scene().export
	for _, s := range say {
		e.Status = ptr.To(statusOf(e, plan{say: s}))
	}
	for i := range e.Status.Conditions {
		e.Status.Conditions[i].LastTransitionTime = metav1.NewTime(at)
	}
	return *e
}

// TestExportsByState counts exports as their conditions say.
func TestExportsByState(t *testing.T) {
	missing := blocked(finding{v1alpha1.ReasonClaimNotFound, "x"})
	full := []verdict{{v1alpha1.ConditionDegraded, true, v1alpha1.ReasonScratchFull, "x"}}
	strange := exportIn(noon, ready("x"))
	strange.Status.Conditions = append(strange.Status.Conditions, metav1.Condition{Type: "Somebody's", Status: "True", Reason: "X1"})
	m := NewMetrics("1.2", fullCache{exports: []v1alpha1.NBDExport{
		{}, strange,
		exportIn(noon, ready("x"), full),
		exportIn(noon, missing),
		exportIn(noon.Add(-time.Hour), missing),
		exportIn(noon, notEnded(), underWay(v1alpha1.ReasonStarting, "x")),
		exportIn(noon, ended(true, v1alpha1.ReasonFlushFailed, "x")),
	}}, leads())
	err := testutil.CollectAndCompare(m, strings.NewReader(`
# HELP nbdexport_exports NBDExports by the status and reason of each of their conditions. Those of Ready are all that there are.
# TYPE nbdexport_exports gauge
nbdexport_exports{condition="Complete",reason="FlushFailed",status="True"} 1
nbdexport_exports{condition="Complete",reason="NotEnded",status="False"} 1
nbdexport_exports{condition="Degraded",reason="ScratchFull",status="True"} 1
nbdexport_exports{condition="Failed",reason="FlushFailed",status="True"} 1
nbdexport_exports{condition="Failed",reason="NotEnded",status="False"} 1
nbdexport_exports{condition="Progressing",reason="ClaimNotFound",status="False"} 2
nbdexport_exports{condition="Progressing",reason="Completed",status="False"} 1
nbdexport_exports{condition="Progressing",reason="Serving",status="False"} 2
nbdexport_exports{condition="Progressing",reason="Starting",status="True"} 1
nbdexport_exports{condition="Ready",reason="ClaimNotFound",status="False"} 2
nbdexport_exports{condition="Ready",reason="Completed",status="False"} 1
nbdexport_exports{condition="Ready",reason="Serving",status="True"} 2
nbdexport_exports{condition="Ready",reason="Starting",status="False"} 1
nbdexport_exports{condition="Ready",reason="Unknown",status="Unknown"} 1
# HELP nbdexport_exports_not_ready_since_timestamp_seconds Unix time since when an NBDExport that hasn't ended isn't ready: the earliest, by the reason that it has now.
# TYPE nbdexport_exports_not_ready_since_timestamp_seconds gauge
nbdexport_exports_not_ready_since_timestamp_seconds{reason="ClaimNotFound"} 1.7673516e+09
nbdexport_exports_not_ready_since_timestamp_seconds{reason="Starting"} 1.7673552e+09
`), "nbdexport_exports", "nbdexport_exports_not_ready_since_timestamp_seconds")
	if err != nil {
		t.Error(err)
	}
}

// TestNotLeading: of two operators only one counts the exports.
func TestNotLeading(t *testing.T) {
	m := NewMetrics("1.2", fullCache{exports: []v1alpha1.NBDExport{exportIn(noon, ready("x"))}}, make(chan struct{}))
	if n := testutil.CollectAndCount(m, "nbdexport_exports"); n != 0 {
		t.Errorf("%d series of an operator that doesn't lead", n)
	}
	if n := testutil.CollectAndCount(m, "nbdexport_build_info"); n != 1 {
		t.Errorf("%d", n)
	}
}

// TestTimeToReady counts an export once, by its own record.
func TestTimeToReady(t *testing.T) {
	m := NewMetrics("1.2", fullCache{}, leads())
	e := scene().export // created at noon
	at := metav1.NewTime(noon.Add(7 * time.Second))
	before := *e.Status.DeepCopy()
	m.count(e, before)
	e.Status.FirstReadyAt = &at
	m.count(e, before)
	m.count(e, e.GetStatus())
	early := metav1.NewTime(noon.Add(-time.Minute)) // the clocks differ
	e.Status.FirstReadyAt = &early
	m.count(e, before)
	reg := prometheus.NewRegistry()
	reg.MustRegister(m.ready)
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if h := all[0].Metric[0].Histogram; h.GetSampleCount() != 2 || h.GetSampleSum() != 7 {
		t.Errorf("%v", h)
	}
}

// TestDrains counts each end of a server.
func TestDrains(t *testing.T) {
	m := NewMetrics("1.2", fullCache{}, leads())
	for _, c := range []struct {
		code   int
		text   string
		result string
	}{
		{0, reportOf(t, "signal=SIGTERM", 0), v1alpha1.ReasonDrained},
		{0, reportOf(t, "signal=SIGTERM", report.ExitClientsCut), v1alpha1.ReasonClientsCutOff},
		{0, reportOf(t, "idle=1m0s", report.ExitFlushFailed), v1alpha1.ReasonFlushFailed},
		{1, reportOf(t, "idle=1m0s", 1), v1alpha1.ReasonServerFailed},
		{137, "", v1alpha1.ReasonServerKilled},
		{0, "", v1alpha1.ReasonReportLost},
		{report.ExitStartup, "nbdserver: no such file", ""},
	} {
		before := drains(m)
		o := scene()
		pod := withPod(o)
		start := metav1.NewTime(noon)
		pod.Status.StartTime = &start
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: start}}
		over(pod, c.code, c.text)
		if c.code == 137 || c.text == "" {
			pod.Status.Conditions = nil // it may have served
		}
		m.drained(pod)
		if c.result != "" {
			before[c.result]++
		}
		if after := drains(m); !maps.Equal(after, before) {
			t.Errorf("exit code %d, %q: %v, want %v", c.code, c.text, after, before)
		}
	}
}

// drains are how many there were, by result.
func drains(m *Metrics) map[string]float64 {
	out := map[string]float64{}
	for _, result := range results {
		out[result] = testutil.ToFloat64(m.drains.WithLabelValues(result))
	}
	return out
}

// TestMetricsAreDocumented: the table in the guide has the metrics that there are, in the
// words of their help texts, and Prometheus has nothing against them.
func TestMetricsAreDocumented(t *testing.T) {
	cache := fullCache{exports: []v1alpha1.NBDExport{exportIn(noon, underWay(v1alpha1.ReasonStarting, "x"))}, secrets: secrets(t)}
	reg := prometheus.NewRegistry()
	reg.MustRegister(NewMetrics("1.2", cache, leads()), CertificateExpiry(cache, leads()))
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile("../docs/nbdexport.md")
	if err != nil {
		t.Fatal(err)
	}
	var table, want []string
	for line := range strings.Lines(string(guide)) {
		if strings.HasPrefix(line, "| `nbdexport_") {
			table = append(table, strings.TrimSpace(line))
		}
	}
	for _, f := range families {
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		line := fmt.Sprintf("| `%s` | %s | %s | %s |", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, " "), f.GetHelp())
		want = append(want, line)
		if !slices.Contains(table, line) {
			t.Errorf("docs/nbdexport.md lacks the line\n%s", line)
		}
	}
	for _, line := range table {
		if !slices.Contains(want, line) {
			t.Errorf("docs/nbdexport.md has a line that fits no metric:\n%s", line)
		}
	}
}
