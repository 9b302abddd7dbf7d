package controller_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestTTL keeps an ended export for an hour and not a second less, on a clock of the
// test's own.
func TestTTL(t *testing.T) {
	t.Parallel()
	w, clock := newWorldOnClock(t)
	w.export("e", untilVMGone+"ttlSecondsAfterFinished: 3600\n")
	e := w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonNeverStarted)

	ended := e.Status.Conditions[0].LastTransitionTime
	clock.SetTime(ended.Add(time.Hour - time.Millisecond))
	wake(w, e, "1")
	w.settled("e")
	if !w.read("e").DeletionTimestamp.IsZero() {
		t.Fatal("it was deleted before its time")
	}
	// It looks again by itself when the last millisecond is over.
	clock.SetTime(ended.Add(time.Hour))
	w.gone(e)
}

// TestTTLZero lets an export go as soon as it has ended, and with it the hold on its
// pod.
func TestTTLZero(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.export("e", "volumes: [{name: a, source: {memory: {size: 1}}}]\ntls: {mode: Disabled}\nttlSecondsAfterFinished: 0\n"+
		"exitWhen: [{name: stop, fileCreated: {path: /run/nbdexport/stop}}]")
	pod := w.pod("nbd-e", nil)
	w.serve(pod)
	e := w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	w.end(pod, "file-created=/run/nbdexport/stop", 0)
	w.gone(e)
	var left corev1.Pod
	get(t, w.key("nbd-e"), &left) // there is no garbage collector here to take it
	if len(left.Finalizers) > 0 {
		t.Errorf("the pod is held by %v", left.Finalizers)
	}
}
