package controllers

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestNews goes through a life, and expects an Event for each first transition.
func TestNews(t *testing.T) {
	e := scene().export
	at := metav1.NewTime(noon)
	exit := &v1alpha1.ExitStatus{Condition: "vm-gone", Reason: v1alpha1.ExitPodDeleted, StartedAt: &at}
	missing := plan{say: blocked(finding{v1alpha1.ReasonClaimNotFound, "x" + strings.Repeat("ä", 1000)})}
	full := plan{say: []verdict{{v1alpha1.ConditionDegraded, true, v1alpha1.ReasonScratchFull, "x"}}}
	freed := plan{say: []verdict{{v1alpha1.ConditionDegraded, false, v1alpha1.ReasonScratchFreed, "x"}}}
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
		{"takes a break", plan{say: underWay(v1alpha1.ReasonNotReady, "x")}, ""},
		{"serves again", plan{say: ready("x")}, ""},
		{"scratch full", full, "Warning ScratchFull"},
		{"scratch freed", freed, ""},
		{"scratch full again", full, ""},
		{"drains", plan{exit: exit, say: underWay(v1alpha1.ReasonDraining, "x")}, "Normal ExitConditionMet"},
		{"ended", plan{exit: exit, say: ended(true, v1alpha1.ReasonFlushFailed, "x")}, "Warning FlushFailed"},
		{"still ended", plan{}, ""},
	} {
		next := statusOf(e, step.plan)
		var got []string
		for _, n := range news(e.GetStatus(), next) {
			got = append(got, n.kind+" "+n.reason)
			if len(n.note) > 1024 || n.note == "" || !utf8.ValidString(n.note) || n.action == "" {
				t.Errorf("%s: action %q, a note of %d bytes: %s", step.name, n.action, len(n.note), n.note)
			}
		}
		if strings.Join(got, ", ") != step.want {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
		e.Status = ptr.To(next)
	}
}

// TestExitNote says which condition, and when.
func TestExitNote(t *testing.T) {
	at := metav1.NewTime(noon)
	x := v1alpha1.ExitStatus{Condition: "vm-gone", Reason: v1alpha1.ExitPodDeleted, StartedAt: &at}
	if got, want := exitNote(x), "the exit condition vm-gone (PodDeleted) was met at 2026-01-02T12:00:00Z"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestUntold: what comes and goes is told once in an hour, of each export.
func TestUntold(t *testing.T) {
	clock := clocktesting.NewFakePassiveClock(noon)
	r := &Reconciler{told: cache.NewLRUExpireCacheWithClock(maxTold, clock)}
	one := scene().export
	two := one.DeepCopy()
	two.UID = "2"
	failed := item{"Warning", v1alpha1.ReasonServerFailed, "Serve", "exit code 1"}
	again := item{"Warning", v1alpha1.ReasonServerFailed, "Serve", "exit code 2"}
	ended := item{"Warning", v1alpha1.ReasonServerFailed, "Complete", "x"}
	for _, step := range []struct {
		name string
		n    int
		got  []item
	}{
		{"first", 1, r.untold(one, []item{failed})},
		{"again", 0, r.untold(one, []item{again})},
		{"of another export", 1, r.untold(two, []item{failed})},
		{"another action", 1, r.untold(one, []item{again, ended})},
	} {
		if len(step.got) != step.n {
			t.Errorf("%s: %v", step.name, step.got)
		}
	}
	for minutes := range 59 {
		clock.SetTime(noon.Add(time.Duration(minutes) * time.Minute))
		if got := r.untold(one, []item{again}); len(got) != 0 {
			t.Errorf("after %d minutes: %v", minutes, got)
		}
	}
	clock.SetTime(noon.Add(61 * time.Minute))
	if got := r.untold(one, []item{again}); len(got) != 1 {
		t.Errorf("after an hour: %v", got)
	}
}
