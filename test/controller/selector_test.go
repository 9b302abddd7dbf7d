package controller_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// untilAppGone is an export that ends with the pods of an app.
const untilAppGone = `
volumes: [{name: disk, source: {memory: {size: 1Mi}}}]
exitWhen: [{name: app-gone, podDeleted: {selector: {matchExpressions: [{key: app, operator: In, values: [db]}]}}}]
tls: {mode: Disabled}
`

// member makes a pod of the app.
func (w *world) member(name string) *corev1.Pod {
	w.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name, Labels: map[string]string{"app": "db"}},
		Spec:       corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{{Name: "db", Image: "example.test/db"}}},
	}
	w.must(pod)
	return pod
}

// seen waits until a pod of the app is on record.
func (w *world) seen() {
	w.Helper()
	eventually(w.T, "a pod of the app should be on record", func() string {
		if len(w.read("e").Status.WatchedPods) == 0 {
			return "none is"
		}
		return ""
	})
}

// TestSelector serves before there is any pod of the app, until the last one is
// gone. One is deleted, one loses its label.
func TestSelector(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.export("e", untilAppGone)
	pod := w.pod("nbd-e", nil)
	w.serve(pod)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	first := w.member("db-0")
	w.seen()
	second := w.member("db-1")
	w.remove(first)
	w.kill(first)
	w.settled("e")
	if x := w.read("e").Status.Exit; x != nil {
		t.Fatalf("one is still there, but: %+v", x)
	}
	label(w, second, "app", "web")
	w.deleting(pod)
	if x := w.read("e").Status.Exit; x == nil || x.Condition != "app-gone" || x.Reason != v1alpha1.ExitPodDeleted {
		t.Errorf("exit: %+v", x)
	}
	w.end(pod, "signal=SIGTERM", 0)
	w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonDrained)
}

// TestSelectorUnseen has the app go while no operator runs.
func TestSelectorUnseen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	member := w.member("db-0")
	w.export("e", untilAppGone)
	pod := w.pod("nbd-e", nil)
	w.seen()
	w.stop()
	w.kill(member)
	w.start()
	w.gone(pod)
	w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonNeverStarted)
}

// TestInvalidSelector has a selector that only the operator can check.
func TestInvalidSelector(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.export("e", `
volumes: [{name: disk, source: {memory: {size: 1Mi}}}]
exitWhen: [{name: app-gone, podDeleted: {selector: {matchExpressions: [{key: app, operator: Near}]}}}]
tls: {mode: Disabled}
`)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonInvalidCondition)
	says(t, message(e, v1alpha1.ConditionReady), "exit condition app-gone", "Near")
	w.noPod()
	w.remove(e)
	w.gone(e)
}
