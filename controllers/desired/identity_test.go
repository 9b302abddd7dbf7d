package desired

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestOursWin gives the template labels and annotations that the API server would
// have refused.
func TestOursWin(t *testing.T) {
	e := export(t, "vm-disk")
	e.Spec.Template = &v1alpha1.PodTemplate{
		Labels:      map[string]v1alpha1.LabelValue{v1alpha1.LabelExport: "other", "app.kubernetes.io/name": "other", "team": "storage"},
		Annotations: map[string]v1alpha1.AnnotationValue{v1alpha1.AnnotationExport: "other", v1alpha1.AnnotationNode: "other"},
	}
	f := facts
	f.Node = "node-7"
	pod, err := Pod(e, f)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{v1alpha1.LabelExport: "vm-disk", "app.kubernetes.io/name": "nbdexport", "team": "storage"} {
		if got := pod.Labels[key]; got != want {
			t.Errorf("label %s is %q, want %q", key, got, want)
		}
	}
	for key, want := range map[string]string{v1alpha1.AnnotationExport: "vm-disk", v1alpha1.AnnotationNode: "node-7"} {
		if got := pod.Annotations[key]; got != want {
			t.Errorf("annotation %s is %q, want %q", key, got, want)
		}
	}
}

// TestGroupsFollowTheUser: who names only a user gets its group.
func TestGroupsFollowTheUser(t *testing.T) {
	for _, c := range []struct {
		in                   v1alpha1.SecurityContext
		user, group, fsGroup int64
	}{
		{v1alpha1.SecurityContext{}, 65532, 65532, 65532},
		{v1alpha1.SecurityContext{RunAsUser: ptr.To[int64](107)}, 107, 107, 107},
		{v1alpha1.SecurityContext{RunAsUser: ptr.To[int64](107), RunAsGroup: ptr.To[int64](0)}, 107, 0, 107},
		{v1alpha1.SecurityContext{FSGroup: ptr.To[int64](36)}, 65532, 65532, 36},
	} {
		s := securityContext(&c.in)
		if *s.RunAsUser != c.user || *s.RunAsGroup != c.group || *s.FSGroup != c.fsGroup || !*s.RunAsNonRoot {
			t.Errorf("%+v: user %d, group %d, fsGroup %d", c.in, *s.RunAsUser, *s.RunAsGroup, *s.FSGroup)
		}
	}
}

// TestNodeWithinAffinity: of the terms of a node affinity one is enough, so the
// node's name has to be in each of them, beside what is there.
func TestNodeWithinAffinity(t *testing.T) {
	e := export(t, "vm-disk")
	zone := func(z string) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{z}}}}
	}
	e.Spec.Template = &v1alpha1.PodTemplate{Affinity: &corev1.Affinity{
		PodAntiAffinity: &corev1.PodAntiAffinity{},
		NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{zone("a"), {}, zone("b")},
		}},
	}}
	f := facts
	f.Node = "node-7"
	got, err := affinity(e, f)
	if err != nil {
		t.Fatal(err)
	}
	terms := got.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	for i, want := range []int{1, 0, 1} {
		term := terms[i]
		if len(term.MatchExpressions) != want || len(term.MatchFields) != want || want == 1 && term.MatchFields[0].Values[0] != "node-7" {
			t.Errorf("term %d: %+v", i, term)
		}
	}
	if got.PodAntiAffinity == nil {
		t.Error("the rest of the affinity is gone")
	}
	if n := e.Spec.Template.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields; n != nil {
		t.Errorf("the export itself was changed: %+v", n)
	}
}
