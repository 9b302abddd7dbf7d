package charts_test

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers"
	"github.com/nbdexport/nbdexport/nbdserver"
	"github.com/nbdexport/nbdexport/nbdserver/backend/memory"
)

// series are the values that labels have, by metric and label.
type series map[string]map[string][]string

// elsewhere are metrics that a server without TLS and scratch doesn't have, and those of
// controller-runtime that the manager shows.
var elsewhere = series{
	"nbd_server_certificate_expiry_timestamp_seconds": {"certificate": {"server", "ca"}},
	"nbd_server_scratch_bytes":                        {"export": nil},
	"nbd_server_scratch_limit_bytes":                  {"export": nil},
	"controller_runtime_reconcile_total":              {"controller": {"nbdexport"}},
	"controller_runtime_reconcile_errors_total":       {"controller": {"nbdexport"}},
	"controller_runtime_reconcile_time_seconds":       {"controller": {"nbdexport"}},
	"workqueue_depth":                                 {"name": {"nbdexport"}, "controller": {"nbdexport"}},
	"leader_election_master_status":                   {"name": {"nbdexport-manager"}},
}

// target are the labels that the monitors in the chart give to every series.
var target = []string{"namespace", "nbdexport", "pod", "container", "endpoint", "job"}

// TestExpressions: alerts and dashboard ask for metrics, labels and values of
// labels that a server has. promtool, in test/packaging, reads their grammar.
func TestExpressions(t *testing.T) {
	known := ofServer(t)
	maps.Copy(known, elsewhere)
	maps.Copy(known, ofManager(t))
	name := regexp.MustCompile(`\b((?:nbd_server|nbdexport|controller_runtime|workqueue|leader_election)_\w+)(?:\{([^}]*)\})?`)
	matcher := regexp.MustCompile(`(\w+)(=~|!~|!=|=)"([^"]*)"`)
	n := 0
	for _, expr := range expressions(t) {
		for _, found := range name.FindAllStringSubmatch(expr, -1) {
			n++
			labels, ok := known[strings.TrimSuffix(found[1], "_bucket")]
			if !ok {
				t.Errorf("nobody has the metric %s of %s", found[1], expr)
				continue
			}
			for _, m := range matcher.FindAllStringSubmatch(found[2], -1) {
				if slices.Contains(target, m[1]) {
					continue
				}
				for _, value := range strings.Split(m[3], "|") {
					if !slices.Contains(labels[m[1]], value) {
						t.Errorf("%s never has %s=%q, but one of %q: %s", found[1], m[1], value, labels[m[1]], expr)
					}
				}
			}
		}
	}
	if n < 35 {
		t.Errorf("only %d metrics were found in the expressions", n)
	}
}

// TestAlertsAreDocumented: the guide has each alert with its severity, and no others.
func TestAlertsAreDocumented(t *testing.T) {
	var alerts struct {
		Groups []struct {
			Rules []struct {
				Alert  string
				Labels struct{ Severity string }
			}
		}
	}
	text, err := os.ReadFile(chart + "/files/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &alerts); err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile("../docs/installing.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			n++
			if line := "\n| `" + r.Alert + "` | " + r.Labels.Severity + " | "; !strings.Contains(string(guide), line) {
				t.Errorf("docs/installing.md lacks the line%s", line)
			}
		}
	}
	if got := strings.Count(string(guide), "\n| `NBDExport"); got != n {
		t.Errorf("docs/installing.md has %d alerts, and there are %d", got, n)
	}
}

// ofServer are the series of a server that has drained.
func ofServer(t *testing.T) series {
	t.Helper()
	m, err := memory.New(4096)
	if err != nil {
		t.Fatal(err)
	}
	s := &nbdserver.Server{Exports: []*nbdserver.Export{{Name: "disk", Backend: m}}}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	return seriesOf(t, s.Collector())
}

// exports is a cache with exports that aren't ready.
type exports struct{ client.Reader }

func (exports) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	all, ok := list.(*v1alpha1.NBDExportList)
	for _, reason := range []string{v1alpha1.ReasonDraining, v1alpha1.ReasonDeleting} {
		if ok {
			all.Items = append(all.Items, v1alpha1.NBDExport{Status: &v1alpha1.NBDExportStatus{Conditions: []metav1.Condition{
				{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason}}}})
		}
	}
	return nil
}

// ofManager are the series of a manager's own.
func ofManager(t *testing.T) series {
	leads := make(chan struct{})
	close(leads)
	known := seriesOf(t, controllers.NewMetrics("", exports{}, leads))
	known["nbdexport_certificate_expiry_timestamp_seconds"] = map[string][]string{"kind": {"ca", "server", "client"}}
	return known
}

// seriesOf are those of a collector.
func seriesOf(t *testing.T, c prometheus.Collector) series {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	known := series{}
	for _, f := range families {
		labels := map[string][]string{}
		for _, metric := range f.GetMetric() {
			for _, l := range metric.GetLabel() {
				labels[l.GetName()] = append(labels[l.GetName()], l.GetValue())
			}
		}
		known[f.GetName()] = labels
	}
	return known
}

// expressions are those of the alerts and of the dashboard.
func expressions(t *testing.T) []string {
	t.Helper()
	var alerts struct {
		Groups []struct{ Rules []struct{ Expr string } }
	}
	var dashboard struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	for file, into := range map[string]any{"alerts.yaml": &alerts, "dashboard.json": &dashboard} {
		text, err := os.ReadFile(chart + "/files/" + file)
		if err != nil {
			t.Fatal(err)
		}
		read := func(b []byte, v any) error { return yaml.Unmarshal(b, v) }
		if strings.HasSuffix(file, ".json") {
			read = json.Unmarshal
		}
		if err := read(text, into); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	var out []string
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			out = append(out, r.Expr)
		}
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			out = append(out, target.Expr)
		}
	}
	return out
}
