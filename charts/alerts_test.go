package charts_test

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// TestPrometheusRule: the rules come out as promtool has tested them. Without the
// manager's metrics there are none about the manager: they would fire for ever.
func TestPrometheusRule(t *testing.T) {
	text, err := os.ReadFile(chart + "/files/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var alerts map[string]any
	if err := yaml.Unmarshal(text, &alerts); err != nil {
		t.Fatal(err)
	}
	groups := alerts["groups"].([]any)
	if len(groups) != 2 || object(groups[1].(map[string]any))["name"] != "nbdexport-manager" {
		t.Fatalf("the groups are %v", groups)
	}
	for values, want := range map[string][]any{
		"prometheusRule: {enabled: true}":                              groups,
		"prometheusRule: {enabled: true}\nmetrics: {enabled: false}\n": groups[:1],
	} {
		rule := parse(t, render(t, values))["PrometheusRule nbdexport-system nbdexport"]
		if diff := cmp.Diff(any(want), rule.at("spec.groups")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", values, diff)
		}
	}
}
