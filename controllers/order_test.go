package controllers

import (
	"context"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// shuffled is a cache that lists what it has in the reverse order of before.
type shuffled struct {
	client.Client
	pods    []corev1.Pod
	exports []v1alpha1.NBDExport
}

func (s *shuffled) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	switch l := list.(type) {
	case *corev1.PodList:
		slices.Reverse(s.pods)
		l.Items = slices.Clone(s.pods)
	case *v1alpha1.NBDExportList:
		slices.Reverse(s.exports)
		l.Items = slices.Clone(s.exports)
	}
	return nil
}

// TestSameWords looks twice at an export whose claim several others use, pods and exports.
// What is said names one of them, and has to be the same: a status that is written has the
// export looked at again, and so two that take turns never end.
func TestSameWords(t *testing.T) {
	first, second := another("a", v1alpha1.ReadWrite, noon), another("b", v1alpha1.ReadWrite, noon)
	for name, c := range map[string]struct {
		s     shuffled
		scene func(*observed)
	}{
		"exports without pods": {shuffled{exports: []v1alpha1.NBDExport{first, second}}, func(*observed) {}},
		"exports with pods": {shuffled{exports: []v1alpha1.NBDExport{first, second},
			pods: []corev1.Pod{*podOf(first, "node-7"), *podOf(second, "node-7")}}, func(*observed) {}},
		"on two nodes": {shuffled{pods: []corev1.Pod{*userPod("vm-1", "node-7"), *userPod("vm-2", "node-8")}}, func(*observed) {}},
		"no room beside them": {shuffled{pods: []corev1.Pod{*userPod("vm-1", "node-7"), *userPod("vm-2", "node-7")}}, func(o *observed) {
			withPod(o).Spec.NodeName = ""
			o.pod.Annotations[v1alpha1.AnnotationNode] = "node-7"
			o.pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse}}
		}},
	} {
		r := &Reconciler{Client: &c.s}
		var words []string
		for range 2 {
			o := scene()
			o.export.Name = "z"
			c.scene(o)
			var err error
			if o.users["disk"], err = r.usersOf(context.Background(), o.export, "disk"); err != nil {
				t.Fatal(err)
			}
			if o.others, err = r.othersOf(context.Background(), o.export); err != nil {
				t.Fatal(err)
			}
			reason, message := said(decide(o), v1alpha1.ConditionReady)
			if reason != "False "+v1alpha1.ReasonVolumeInUse {
				t.Errorf("%s: %s: %s", name, reason, message)
			}
			words = append(words, message)
		}
		if words[0] != words[1] {
			t.Errorf("%s: first %q, then %q", name, words[0], words[1])
		}
	}
}
