package controller_test

import (
	"context"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestCopyOnWriteStays is refused in what takes a new pod.
func TestCopyOnWriteStays(t *testing.T) {
	t.Parallel()
	w := &world{T: t, ns: namespace(t)}
	w.export("golden", accepted)
	golden := w.read("golden")
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
	base := golden.DeepCopy()
	golden.Spec.ExitWhen = append(golden.Spec.ExitWhen[1:],
		v1alpha1.ExitCondition{Name: "vm-2-gone", PodDeleted: &v1alpha1.PodDeleted{Name: ptr.To("vm-2")}})
	if err := kube.Patch(context.Background(), golden, client.MergeFrom(base)); err != nil {
		t.Errorf("podDeleted: %v", err)
	}
}
