package controller_test

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
	"github.com/nbdexport/nbdexport/nbdserver/exitwhen"
)

// TestReportNamesConditions has the server make conditions of what the operator tells
// it, and compares how the report will name them with how the operator will look
// them up.
func TestReportNamesConditions(t *testing.T) {
	t.Parallel()
	e := &v1alpha1.NBDExport{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(time.Now())}}
	half := metav1.NewTime(time.Date(2026, 1, 31, 18, 30, 0, 500e6, time.FixedZone("", 7200)))
	o := exitwhen.Options{Clients: &exitwhen.Clients{}}
	for _, c := range []struct {
		condition v1alpha1.ExitCondition
		make      func(string, exitwhen.Options) (exitwhen.Condition, error)
	}{
		{v1alpha1.ExitCondition{LastClientLeft: &v1alpha1.LastClientLeft{}}, exitwhen.LastClientLeaves},
		{v1alpha1.ExitCondition{LastClientLeft: &v1alpha1.LastClientLeft{GraceSeconds: ptr.To[int32](90)}}, exitwhen.LastClientLeaves},
		{v1alpha1.ExitCondition{ProcessExited: &v1alpha1.ProcessExited{Name: "qemu-kvm"}}, exitwhen.ProcessExits},
		{v1alpha1.ExitCondition{Idle: &v1alpha1.Idle{Seconds: 3600}}, exitwhen.Idle},
		{v1alpha1.ExitCondition{Deadline: &v1alpha1.Deadline{Seconds: ptr.To[int32](60)}}, exitwhen.Deadline},
		{v1alpha1.ExitCondition{Deadline: &v1alpha1.Deadline{Time: &half}}, exitwhen.Deadline},
	} {
		flag, arg, ok := desired.ExitFlag(e, c.condition)
		if !ok {
			t.Errorf("%+v: the server isn't told", c.condition)
			continue
		}
		made, err := c.make(arg, o)
		if err != nil {
			t.Errorf("--exit-when-%s=%s: %v", flag, arg, err)
			continue
		}
		if want := flag + "=" + arg; made.String() != want {
			t.Errorf("the report says %s, the operator looks for %s", made, want)
		}
	}
}

// TestServerConditions ends exports by the conditions that only the server sees.
func TestServerConditions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ condition, reported, reason string }{
		"left": {"lastClientLeft: {graceSeconds: 90}", "last-client-leaves=1m30s", v1alpha1.ExitLastClientLeft},
		"idle": {"idle: {seconds: 5}", "idle=5s", v1alpha1.ExitIdle},
		"gone": {"processExited: {name: qemu-kvm}", "process-exits=name=qemu-kvm", v1alpha1.ExitProcessExited},
		"time": {`deadline: {time: "2126-01-31T18:30:00+02:00"}`, "deadline=2126-01-31T16:30:00Z", v1alpha1.ExitDeadline},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.export("e", "volumes: [{name: a, source: {memory: {size: 1}}}]\ntls: {mode: Disabled}\nexitWhen: [{name: the-one, "+c.condition+"}]\ntemplate: {containers: [{name: companion, image: example.test/c}]}")
			pod := w.pod("nbd-e", nil)
			w.serve(pod)
			w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
			w.end(pod, c.reported, 0)
			e := w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonDrained)
			if x := e.Status.Exit; x.Condition != "the-one" || x.Reason != c.reason {
				t.Errorf("exit: %+v", x)
			}
		})
	}
}

// TestDeadlineUnserved has a deadline come before there is anything to serve, and in
// a pod that can't start, on a clock of the test's own: the operator looks again by itself.
func TestDeadlineUnserved(t *testing.T) {
	t.Parallel()
	w, clock := newWorldOnClock(t)
	w.export("e", ofClaim+"exitWhen: [{name: over, deadline: {seconds: 2}}]\n")
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonClaimNotFound)
	clock.SetTime(e.CreationTimestamp.Add(2 * time.Second))
	e = w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonNeverStarted)
	if x := e.Status.Exit; x.Condition != "over" || x.Reason != v1alpha1.ExitDeadline || x.StartedAt.Sub(e.CreationTimestamp.Time) != 2*time.Second {
		t.Errorf("exit: %+v, created %v", x, e.CreationTimestamp)
	}

	clock.SetTime(time.Now())
	w.export("f", "volumes: [{name: a, source: {memory: {size: 1}}}]\ntls: {mode: Disabled}\nexitWhen: [{name: over, deadline: {seconds: 2}}]")
	pod := w.pod("nbd-f", nil)
	clock.SetTime(w.read("f").CreationTimestamp.Add(2 * time.Second))
	w.expect("f", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonNeverStarted)
	w.gone(pod)
}
