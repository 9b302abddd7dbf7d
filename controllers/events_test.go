package controllers

import (
	"strings"
	"testing"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestNews goes through a life, and expects an Event for each first transition.
func TestNews(t *testing.T) {
	e := scene().export
	exit := &v1alpha1.ExitStatus{Condition: "vm-gone", Reason: v1alpha1.ExitPodDeleted}
	missing := plan{say: blocked(finding{v1alpha1.ReasonClaimNotFound, strings.Repeat("x", 2000)})}
	for _, step := range []struct {
		name string
		plan plan
		want string
	}{
		{"claim missing", missing, "Warning ClaimNotFound"},
		{"still missing", missing, ""},
		{"starts", plan{say: underWay(v1alpha1.ReasonStarting, "x")}, ""},
		{"serves", plan{say: ready("x")}, "Normal Serving"},
		{"still serves", plan{say: ready("x")}, ""},
		{"drains", plan{exit: exit, say: underWay(v1alpha1.ReasonDraining, "x")}, "Normal ExitConditionMet"},
		{"ended", plan{exit: exit, say: ended(true, v1alpha1.ReasonFlushFailed, "x")}, "Warning FlushFailed"},
		{"still ended", plan{}, ""},
	} {
		next := statusOf(e, step.plan)
		var got []string
		for _, n := range news(e.Status, next) {
			got = append(got, n.kind+" "+n.reason)
			if len(n.note) > 1024 {
				t.Errorf("%s: a note of %d bytes", step.name, len(n.note))
			}
		}
		if strings.Join(got, ", ") != step.want {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
		e.Status = next
	}
}
