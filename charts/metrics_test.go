package charts_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/yaml"

	"github.com/nbdexport/nbdexport/nbdserver"
	"github.com/nbdexport/nbdexport/nbdserver/backend/memory"
)

// series are the values that labels have, by metric and label.
type series map[string]map[string][]string

// elsewhere are metrics that a server without TLS doesn't have, and those of
// controller-runtime that the manager shows.
var elsewhere = series{
	"nbd_server_certificate_expiry_timestamp_seconds": {"certificate": {"server", "ca"}},
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
	for name, labels := range elsewhere {
		known[name] = labels
	}
	name := regexp.MustCompile(`\b((?:nbd_server|controller_runtime|workqueue|leader_election)_\w+)(?:\{([^}]*)\})?`)
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
	if n < 25 {
		t.Errorf("only %d metrics were found in the expressions", n)
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
	reg := prometheus.NewRegistry()
	reg.MustRegister(s.Collector())
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
