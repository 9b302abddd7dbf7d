package packaging_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// promtool runs Prometheus' tool, from where hack/deps.sh puts it.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		path = filepath.Join(assets, "promtool")
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v (if it is missing: hack/deps.sh interop)\n%s", strings.Join(args, " "), err, out)
	}
}

// TestAlerts: promtool takes the rules, and they fire when they should.
func TestAlerts(t *testing.T) {
	t.Parallel()
	promtool(t, "check", "rules", "--lint=all", "--lint-fatal", root+"/charts/nbdexport/files/alerts.yaml")
	promtool(t, "test", "rules", root+"/charts/testdata/alerts_test.yaml")
}

// TestDashboard: promtool takes the expression of each panel, as that of a rule.
func TestDashboard(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(root + "/charts/nbdexport/files/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$__rate_interval", "5m", "$namespace", ".*", "$nbdexport", ".*")
	rules := []map[string]string{}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			expr := variables.Replace(target.Expr)
			if strings.Contains(expr, "$") {
				t.Errorf("a variable that the dashboard doesn't have: %s", target.Expr)
			}
			rules = append(rules, map[string]string{"record": fmt.Sprintf("panel:%d", len(rules)), "expr": expr})
		}
	}
	if len(rules) < 15 {
		t.Errorf("only %d expressions", len(rules))
	}
	out, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "panels", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, out, 0o644); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}
