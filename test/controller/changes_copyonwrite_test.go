package controller_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestCopyOnWriteStays is refused in what takes a new pod.
func TestCopyOnWriteStays(t *testing.T) {
	const group = "cow.nbdexport.io"
	installAs(t, group)
	ns := namespace(t)
	golden := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(strings.Replace(accepted, "access: ReadWrite", "access: CopyOnWrite", 1)), &golden.Object); err != nil {
		t.Fatal(err)
	}
	golden.Object = map[string]any{"spec": golden.Object}
	golden.SetAPIVersion(group + "/v1alpha1")
	golden.SetKind("NBDExport")
	golden.SetNamespace(ns)
	golden.SetName("golden")
	eventually(t, "the export should be made", func() string {
		if err := kube.Create(context.Background(), golden); err != nil {
			return err.Error()
		}
		return ""
	})
	for _, c := range []struct {
		name, patch string
		refused     bool
	}{
		{"drain", `{"spec":{"drain":{"timeoutSeconds":61}}}`, true},
		{"poll", `{"spec":{"pollSeconds":7}}`, true},
		{"no conditions", `{"spec":{"exitWhen":null}}`, true},
		{"the server's condition", `{"spec":{"exitWhen":[{"name":"quiet","idle":{"seconds":60}}]}}`, true},
		{"volumes", `{"spec":{"volumes":[{"name":"scratch","source":{"memory":{"size":"1Mi"}}}]}}`, true},
		{"template", `{"spec":{"template":{"nodeSelector":{"a":"b"}}}}`, true},
		{"no template", `{"spec":{"template":null}}`, true},
		{"limits", `{"spec":{"limits":{"connections":7}}}`, false},
		{"port", `{"spec":{"service":{"port":7}}}`, false},
		{"time to live", `{"spec":{"ttlSecondsAfterFinished":7}}`, false},
		{"labels", `{"metadata":{"labels":{"a":"b"}}}`, false},
	} {
		err := kube.Patch(context.Background(), golden.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(c.patch)))
		switch {
		case !c.refused && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.refused && err == nil:
			t.Errorf("%s: taken", c.name)
		case c.refused:
			says(t, err.Error(), "spec: Invalid value", "what clients have written to the CopyOnWrite volume: delete the export and create it anew")
		}
	}
	// What the operator watches itself takes no new pod.
	conditions, _, _ := unstructured.NestedSlice(golden.Object, "spec", "exitWhen")
	golden = golden.DeepCopy()
	if err := unstructured.SetNestedSlice(golden.Object, append(conditions[1:], map[string]any{
		"name": "vm-2-gone", "podDeleted": map[string]any{"name": "vm-2"}}), "spec", "exitWhen"); err != nil {
		t.Fatal(err)
	}
	golden.SetResourceVersion("")
	if err := kube.Patch(context.Background(), golden, client.Merge); err != nil {
		t.Errorf("podDeleted: %v", err)
	}
}

// installAs installs the CRD under another group, with CopyOnWrite among the kinds of
// access.
func installAs(t *testing.T, group string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "config", "crd", "nbdexport.io_nbdexports.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s := strings.ReplaceAll(string(text), v1alpha1.GroupVersion.Group+"\n", group+"\n")
	if !strings.Contains(s, "- CopyOnWrite\n") {
		s = strings.Replace(s, "                      - ReadOnly\n", "                      - CopyOnWrite\n                      - ReadOnly\n", 1)
	}
	crd := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(s), &crd.Object); err != nil {
		t.Fatal(err)
	}
	if err := kube.Create(context.Background(), crd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kube.Delete(context.Background(), crd) })
}
