package controllers

import (
	"context"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// bySelectorOnly has the export end with the pods of an app instead of "vm".
func bySelectorOnly(o *observed, recorded types.UID, found ...corev1.Pod) {
	o.export.Spec.ExitWhen = []v1alpha1.ExitCondition{{Name: "app-gone", PodDeleted: &v1alpha1.PodDeleted{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}}}}
	o.export.Status.WatchedPods = nil
	if recorded != "" {
		o.export.Status.WatchedPods = []v1alpha1.WatchedPod{watchedAs(o.export.Spec.ExitWhen[0], recorded)}
	}
	o.selected = map[string][]corev1.Pod{"app-gone": found}
}

func TestSelector(t *testing.T) {
	there, going, done := *userPod("db-0", ""), *userPod("db-1", ""), *userPod("db-2", "")
	deleted(&going)
	done.Status.Phase = corev1.PodSucceeded
	for i, p := range []*corev1.Pod{&there, &going, &done} {
		p.UID = types.UID(rune('a' + i))
	}
	for _, c := range []struct {
		name     string
		recorded types.UID
		found    []corev1.Pod
		met      bool
		records  types.UID
	}{
		{"none yet", "", nil, false, ""},
		{"first seen", "", []corev1.Pod{there}, false, "a"},
		{"seen", "a", []corev1.Pod{there}, false, ""},
		{"one of them goes", "a", []corev1.Pod{going, there}, false, ""},
		{"the one on record is gone", "x", []corev1.Pod{there}, false, ""},
		{"all gone", "a", nil, true, ""},
		{"all go", "a", []corev1.Pod{going, done}, true, ""},
		{"all go, first seen", "", []corev1.Pod{done}, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := scene()
			bySelectorOnly(o, c.recorded, c.found...)
			p := decide(o)
			if met := p.exit != nil && p.exit.Condition == "app-gone"; met != c.met {
				t.Errorf("met: %v, %+v", met, p.exit)
			}
			var records types.UID
			if len(p.watched) > 0 {
				records = types.UID(p.watched[0].UID)
			}
			if records != c.records {
				t.Errorf("records %q, want %q", records, c.records)
			}
			if makes := p.pod == podCreate; makes != (!c.met && c.records == "") {
				t.Errorf("a pod is made: %v", makes)
			}
		})
	}
}

// listing is a cache or an API server that has some pods.
type listing struct {
	client.Client
	pods []corev1.Pod
}

func (l listing) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	list.(*corev1.PodList).Items = slices.Clone(l.pods)
	return nil
}

// TestSelectorCacheBehind has a pod on record that the cache hasn't, or not any more.
func TestSelectorCacheBehind(t *testing.T) {
	o := scene()
	bySelectorOnly(o, "a")
	there := *userPod("db-0", "")
	own := *withPod(o)
	for name, c := range map[string]struct {
		cached, live []corev1.Pod
		want         int
	}{
		"cache behind": {nil, []corev1.Pod{there, own}, 1},
		"gone":         {[]corev1.Pod{own}, []corev1.Pod{own}, 0},
		"there":        {[]corev1.Pod{there, own}, nil, 1},
	} {
		r := &Reconciler{Client: listing{pods: c.cached}, Live: listing{pods: c.live}}
		got, err := r.selectedPods(context.Background(), o.export)
		if err != nil || len(got["app-gone"]) != c.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
