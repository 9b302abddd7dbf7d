package packaging_test

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestValues: what the chart makes of the values of its golden files is what an API
// server takes, to the last field, but for the monitors, whose kinds it doesn't have.
func TestValues(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.kubectl("apply", "-f", "config/crd/nbdexport.io_nbdexports.yaml")
	c.kubectl("wait", "--for=condition=Established", "crd/"+crd, "--timeout=30s")
	for _, ns := range []string{"ops", "vms", "backup"} { // the last two are of namespaced.values.yaml
		c.kubectl("create", "namespace", ns)
	}
	files, err := filepath.Glob(root + "/charts/testdata/*.values.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no values: %v", err)
	}
	for _, file := range files {
		manifest := c.helm("template", "nbdexport", "charts/nbdexport", "--namespace=ops", "--values=charts/testdata/"+filepath.Base(file),
			"--set=crds.enabled=false,serviceMonitor.enabled=false,podMonitor.enabled=false,prometheusRule.enabled=false")
		create := c.command(filepath.Join(assets, "kubectl"), "create", "--dry-run=server", "--validate=strict", "-f", "-")
		create.Stdin = strings.NewReader(manifest)
		if out := run(t, create); !strings.Contains(out, "deployment.apps/nbdexport-manager created (server dry run)\n") {
			t.Errorf("%s: there is no Deployment:\n%s", file, out)
		}
	}
}
