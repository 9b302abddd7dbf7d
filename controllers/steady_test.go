package controllers

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestRefusals has an admission webhook word its refusal anew each time.
func TestRefusals(t *testing.T) {
	key := types.NamespacedName{Namespace: "vms", Name: "e"}
	is := func(reason, message string) v1alpha1.NBDExportStatus {
		return v1alpha1.NBDExportStatus{Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Reason: reason, Message: message}}}
	}
	const rejected = v1alpha1.ReasonPodRejected
	first, second := is(rejected, "request 1 denied"), is(rejected, "request 2 denied")
	later := is(rejected, "request 2 denied")
	later.ObservedGeneration = ptr.To[int64](2)
	for _, c := range []struct {
		name     string
		from, to v1alpha1.NBDExportStatus
		after    time.Duration
		want     bool
	}{
		{"other words", first, second, refusedDelay - 1, true},
		{"other words, a while later", first, second, refusedDelay, false},
		{"the spec was changed", first, later, 0, false},
		{"another reason", first, is(v1alpha1.ReasonStarting, "x"), 0, false},
		{"words of somebody else", is(v1alpha1.ReasonStarting, "x"), is(v1alpha1.ReasonStarting, "y"), 0, false},
	} {
		var r refusals
		r.written(key, c.from, noon)
		if got := r.tooSoon(key, c.from, c.to, noon.Add(c.after)); got != c.want {
			t.Errorf("%s: too soon %v, want %v", c.name, got, c.want)
		}
	}

	var r refusals
	if r.tooSoon(key, first, second, noon) {
		t.Error("too soon, although nothing was written yet")
	}
	r.written(key, first, noon)
	r.forget(key)
	if r.tooSoon(key, first, second, noon) {
		t.Error("too soon, although the export is forgotten")
	}
}
