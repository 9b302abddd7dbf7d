//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestHelm takes the place of the operator that is installed with one that Helm
// installs, for the life of a release: install for the whole cluster, upgrade to
// one namespace while a copy is under way, helm test with and without a client,
// uninstall. What is exported outlives all of it. The CRD is left to the other
// installation; Helm's way with it is in test/packaging.
func TestHelm(t *testing.T) {
	n := newNamespace(t, theOperator)
	// Before the namespace goes, which takes an operator.
	t.Cleanup(func() { n.operators(1) })
	n.operators(0)

	t.Cleanup(func() {
		if out, err := n.tryHelm("uninstall", "chart", "--ignore-not-found", "--wait"); err != nil {
			t.Errorf("helm uninstall: %v\n%s", err, out)
		}
	})
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := n.try("logs", "-l", "app.kubernetes.io/instance=chart", "--tail=100", "--prefix")
			t.Logf("the chart's managers\n%s", out)
		}
	})
	// With another name of the release no object is one of the other installation.
	n.helm("install", "chart", "charts/nbdexport", "--wait", within,
		"--set=image.repository=localhost/nbdexport,image.tag=dev,crds.enabled=false")
	n.helm("test", "chart", within)

	n.apply(scratch)
	n.client("e")
	uri := n.ready("e")
	want := n.fill(uri)
	pod := n.field("e", ".status.podName")
	uid := n.uid("pod", pod)
	copied := n.slowCopy(uri)

	n.helm("upgrade", "chart", "charts/nbdexport", "--wait", within, "--reuse-values",
		"--set=replicas=2,networkPolicy.enabled=true,test.clientImage=localhost/nbd-client:dev,watchNamespaces={"+n.name+"}")
	if got := n.kubectl("get", "deployment", "chart-nbdexport-manager", "-o", "jsonpath={.status.readyReplicas}"); got != "2" {
		t.Errorf("%s managers are ready, not 2", got)
	}
	if out, err := n.try("get", "clusterrole", "chart-nbdexport-manager"); err == nil {
		t.Errorf("with Roles there is still a ClusterRole: %s", out)
	}
	// This makes an export and streams it: two managers, one of which works, with Roles only.
	n.helm("test", "chart", within)

	n.helm("uninstall", "chart", "--wait")
	n.kubectl("get", "crd", "nbdexports.nbdexport.io")
	n.sh("touch /tmp/go-on")
	if got := <-copied; strings.TrimSpace(got) != want {
		t.Errorf("the copy is %q, not %q", got, want)
	}
	if got := n.read("pod", pod, "{.metadata.uid} {.status.phase}"); got != uid+" Running" {
		t.Errorf("the export's pod is %q, not %q", got, uid+" Running")
	}
	n.sh("nbdinfo --size '" + uri + "'")
}

// helm runs helm in the namespace; it must succeed.
func (n *namespace) helm(args ...string) {
	n.Helper()
	out, err := n.tryHelm(args...)
	if err != nil {
		n.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	n.Logf("helm %s\n%s", strings.Join(args, " "), out)
}

// tryHelm runs helm, as it is for somebody who has configured nothing.
func (n *namespace) tryHelm(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // it may have to be built
	defer cancel()
	cmd := exec.CommandContext(ctx, "hack/helm.sh", append([]string{"--namespace=" + n.name}, args...)...)
	cmd.Dir = root
	home := n.TempDir()
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
