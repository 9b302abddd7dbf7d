package controller_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// limitsOf waits until the configuration of the export "e" has some words in it.
func (w *world) limitsOf(words ...string) *corev1.ConfigMap {
	w.Helper()
	c := &corev1.ConfigMap{}
	eventually(w.T, "the limits in the ConfigMap", func() string {
		if err := kube.Get(context.Background(), w.key("nbd-e"), c); err != nil {
			return err.Error()
		}
		for _, word := range words {
			if !strings.Contains(c.Data["limits.yaml"], word) {
				return "no " + word + " in " + c.Data["limits.yaml"]
			}
		}
		return ""
	})
	return c
}

// changeLimits changes the limits of the export "e".
func (w *world) changeLimits(change func(*v1alpha1.Limits)) *v1alpha1.NBDExport {
	w.Helper()
	e := w.read("e")
	base := e.DeepCopy()
	e.Spec.Limits = ptr.To(ptr.Deref(e.Spec.Limits, v1alpha1.Limits{}))
	change(e.Spec.Limits)
	if err := kube.Patch(context.Background(), e, client.MergeFrom(base)); err != nil {
		w.Fatal(err)
	}
	return e
}

// TestLimitsChange sets limits of an export that serves, changes them and takes
// them back. Its pod stays as it is.
func TestLimitsChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, pod := running(w)
	c := w.limitsOf("{}")
	if !metav1.IsControlledBy(c, w.read("e")) {
		t.Errorf("owners: %+v", c.OwnerReferences)
	}
	w.changeLimits(func(l *v1alpha1.Limits) {
		l.Connections, l.AllowedClientCIDRs = ptr.To[int32](7), []v1alpha1.CIDR{"10.1.0.0/16"}
	})
	w.limitsOf("maxConnections: 7", "allow:\n- 10.1.0.0/16", "deny:\n- all")
	e := w.changeLimits(func(l *v1alpha1.Limits) {
		*l = v1alpha1.Limits{BytesPerSecond: ptr.To(resource.MustParse("1Mi"))}
	})
	if c := w.limitsOf("bytesPerSecond: 1048576"); strings.Contains(c.Data["limits.yaml"], "allow") {
		t.Errorf("limits that were taken back: %s", c.Data["limits.yaml"])
	}
	eventually(t, "the generation should be observed", func() string {
		if s := w.read("e").Status; ptr.Deref(s.ObservedGeneration, 0) != e.Generation {
			return "it isn't"
		}
		return ""
	})
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	same(t, pod)

	// What somebody else writes is corrected.
	c.Data["limits.yaml"] = "maxConnections: 1"
	c.ResourceVersion = ""
	if err := kube.Update(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	w.limitsOf("bytesPerSecond: 1048576")
	w.remove(c)
	w.limitsOf("bytesPerSecond: 1048576")
}

// TestForeignConfigMap finds a ConfigMap of somebody else under its name and leaves it
// alone. It starts when that is gone.
func TestForeignConfigMap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	foreign := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "nbd-e"}, Data: map[string]string{"a": "b"}}
	w.must(foreign)
	w.user("vm", "node-1", "")
	w.export("e", untilVMGone)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonNameTaken)
	says(t, message(e, v1alpha1.ConditionReady), "ConfigMap nbd-e")
	w.noPod()
	untouched(t, foreign, &corev1.ConfigMap{})
	w.remove(foreign)
	wake(w, e, "1")
	w.pod("nbd-e", nil)
}

// TestServerTakesLimits starts the server with what the operator writes for it, and
// for a file that is no such thing sees it refuse.
func TestServerTakesLimits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bin, file := filepath.Join(dir, "nbdserver"), filepath.Join(dir, "limits.yaml")
	if out, err := exec.Command("go", "build", "-o", bin, "../../cmd/nbdserver").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	start := func(text string) error {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return exec.Command(bin, "serve", "memory:1M", "--config", file, "--run", "true").Run()
	}
	for name, l := range map[string]v1alpha1.Limits{
		"none": {},
		"all": {Connections: ptr.To[int32](65535), ConnectionsPerClient: ptr.To[int32](1), BytesPerSecond: ptr.To(resource.MustParse("1")),
			AllowedClientCIDRs: []v1alpha1.CIDR{"10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "0.0.0.0/0", "10.1.2.3/8"}},
	} {
		text := desired.ConfigMap(&v1alpha1.NBDExport{Spec: v1alpha1.NBDExportSpec{Limits: ptr.To(l)}}).Data["limits.yaml"]
		if err := start(text); err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
	if start("maxConnections: many") == nil {
		t.Error("the server doesn't read the file")
	}
}
