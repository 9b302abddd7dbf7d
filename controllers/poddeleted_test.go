package controllers

import (
	"testing"

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
	if recordedAs(o.export, o.targets["vm"]) || !recordedAs(o.export, db) {
		t.Error("which pods are the recorded ones isn't told")
	}
}
