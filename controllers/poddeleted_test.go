package controllers

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestUnrecorded looks at what is put on record, and that it stays.
func TestUnrecorded(t *testing.T) {
	o := scene()
	if got := unrecorded(o); got != nil {
		t.Errorf("all is on record, but: %+v", got)
	}
	o.export.Spec.ExitWhen = append(o.export.Spec.ExitWhen, v1alpha1.ExitCondition{Name: "db-gone", PodDeleted: &v1alpha1.PodDeleted{Name: ptr.To("db")}})
	db := userPod("db", "")
	db.UID = "11"
	o.targets["db"] = db
	o.targets["vm"].UID = "10"
	want := []v1alpha1.WatchedPod{{Name: "vm-gone", UID: "9", PodName: ptr.To("vm")}, {Name: "db-gone", UID: "11", PodName: ptr.To("db")}}
	if got := unrecorded(o); !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := statusOf(o.export, plan{watched: want}).WatchedPods; !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("status: %+v", got)
	}
	if got := statusOf(o.export, plan{}).WatchedPods; len(got) != 1 {
		t.Errorf("status without news: %+v", got)
	}
	if recordedAs(o.export, o.targets["vm"]) || recordedAs(o.export, db) {
		t.Error("which pods are the recorded ones isn't told")
	}
	o.export.Status.WatchedPods = want
	if !recordedAs(o.export, db) {
		t.Error("the recorded one isn't known")
	}
}

// TestTargetBefore has a VM started again: the cache has the pod before, on its way out or
// not, when the export is made for the one that is there now.
func TestTargetBefore(t *testing.T) {
	now := userPod("vm", "node-7")
	now.UID = "10"
	for name, c := range map[string]struct {
		before   func(*corev1.Pod)
		recorded bool
		live     *corev1.Pod
		want     bool // the pod in the cache is taken for the one that counts
	}{
		"on its way out":                {before: deleted, live: now},
		"finished":                      {before: func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, live: now},
		"there, as far as is known":     {live: now},
		"on record":                     {recorded: true, live: now, want: true},
		"on record, and on its way out": {recorded: true, before: deleted, live: now},
		"gone":                          {before: deleted},
	} {
		o := scene()
		before := o.targets["vm"]
		if c.before != nil {
			c.before(before)
		}
		if !c.recorded {
			o.export.Status.WatchedPods = nil
		}
		live := shelf{}
		if c.live != nil {
			live.pods = []*corev1.Pod{c.live}
		}
		r := &Reconciler{Client: shelf{pods: []*corev1.Pod{before}}, Live: live}
		got, err := r.target(context.Background(), o.export, "vm")
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case c.live == nil && got != nil, c.live != nil && (got == nil || (got.UID == before.UID) != c.want):
			t.Errorf("%s: %+v", name, got)
		}
	}
}
