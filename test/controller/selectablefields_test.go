package controller_test

import (
	"context"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestSelectableFields asks the API server for exports by their fields.
func TestSelectableFields(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.export("ended", untilVMGone)
	w.expect("ended", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonNeverStarted)
	serving(w, "serves")
	for field, want := range map[string]string{
		"spec.tls.mode=Disabled":        "ended serves",
		"spec.tls.mode!=Disabled":       "",
		"status.podName=nbd-serves":     "serves",
		"status.exit.condition=vm-gone": "ended",
		"status.exit.reason=PodDeleted": "ended",
		"status.exit.reason=":           "serves",
	} {
		var list v1alpha1.NBDExportList
		err := kube.List(context.Background(), &list, client.InNamespace(w.ns), &client.ListOptions{Raw: &metav1.ListOptions{FieldSelector: field}})
		if err != nil {
			t.Errorf("%s: %v", field, err)
			continue
		}
		var got []string
		for _, e := range list.Items {
			got = append(got, e.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", field, got, want)
		}
	}
}
