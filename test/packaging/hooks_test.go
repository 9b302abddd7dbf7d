package packaging_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// TestHelmTest runs "helm test" in a namespace under the strictest Pod Security
// Standard, and plays the kubelet's part: the pod succeeds. What the hooks made
// is gone then.
func TestHelmTest(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.kubectl("create", "namespace", "ops")
	c.kubectl("label", "namespace", "ops", "pod-security.kubernetes.io/enforce=restricted")
	c.helm("install", "nbdexport", "charts/nbdexport", "--namespace=ops")
	c.kubectl("wait", "--for=condition=Established", "crd/"+crd, "--timeout=2m")

	// hooks runs helm test, and returns the pod and the exports that it made.
	hooks := func(name string) (pod corev1.Pod, exports v1alpha1.NBDExportList) {
		t.Helper()
		cmd := c.command("hack/helm.sh", "test", "nbdexport", "--namespace=ops", "--timeout=5m")
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the pod "+name, func() string {
			if got := c.kubectl("-n", "ops", "get", "pods", "-o", "name"); got != "pod/"+name+"\n" {
				return "there are the pods " + got
			}
			return ""
		})
		for _, read := range []struct {
			into any
			args []string
		}{{&pod, []string{"pod", name}}, {&exports, []string{"nbdexports"}}} {
			if err := json.Unmarshal([]byte(c.kubectl(append([]string{"-n", "ops", "get", "-o", "json"}, read.args...)...)), read.into); err != nil {
				t.Fatal(err)
			}
		}
		c.kubectl("-n", "ops", "patch", "pod", name, "--subresource=status", "--type=merge", "-p", `{"status":{"phase":"Succeeded"}}`)
		if err := cmd.Wait(); err != nil {
			t.Errorf("helm test: %v\n%s", err, out.String())
		}
		if left := c.kubectl("-n", "ops", "get", "pods,nbdexports", "-o", "name"); left != "" {
			t.Errorf("after helm test there are still %s", left)
		}
		return pod, exports
	}

	pod, exports := hooks("nbdexport-test-server")
	if len(exports.Items) != 0 || pod.Spec.Containers[0].Image != "nbdexport:dev" {
		t.Errorf("without a client there are %d exports, and the image is %s", len(exports.Items), pod.Spec.Containers[0].Image)
	}

	c.helm("upgrade", "nbdexport", "charts/nbdexport", "--namespace=ops", "--set=test.clientImage=client:1")
	pod, exports = hooks("nbdexport-test-stream")
	if len(exports.Items) != 1 {
		t.Fatalf("there are %d exports", len(exports.Items))
	}
	e := &exports.Items[0]
	if uri := desired.URI(e, e.Spec.Volumes[0].Name); !slices.Contains(pod.Spec.Containers[0].Command, uri) {
		t.Errorf("the pod runs %q, but the export is at %s", pod.Spec.Containers[0].Command, uri)
	}
}
