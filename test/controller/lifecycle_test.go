package controller_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

const (
	yes = metav1.ConditionTrue
	no  = metav1.ConditionFalse
)

// untilVMGone is an export that ends with the pod vm, or with a file.
const untilVMGone = `
volumes:
- name: disk
  source: {memory: {size: 1Mi}}
exitWhen:
- name: vm-gone
  podDeleted: {name: vm}
- name: stop
  fileCreated: {path: /run/nbdexport/stop}
tls: {mode: Disabled}
`

// running makes the export "e" with its VM, and brings it to where it serves.
func running(w *world) (vm, pod *corev1.Pod) {
	w.Helper()
	vm = w.user("vm", "node-1", "")
	w.export("e", untilVMGone)
	pod = w.pod("nbd-e", nil)
	w.serve(pod)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	return vm, pod
}

// TestMainJob is the whole life of an export that ends with its VM.
func TestMainJob(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.user("vm", "node-1", "")
	w.export("e", untilVMGone)
	pod := w.pod("nbd-e", nil)
	w.expect("e", v1alpha1.ConditionProgressing, yes, v1alpha1.ReasonStarting)
	w.serve(pod)
	e := w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	if want := "nbd://nbd-e." + w.ns + ".svc:10809/disk"; ptr.Deref(e.Status.URI, "") != want || e.Status.Volumes[0].URI != want {
		t.Errorf("uri %q, want %q", ptr.Deref(e.Status.URI, ""), want)
	}
	if ptr.Deref(e.Status.PodName, "") != "nbd-e" || ptr.Deref(e.Status.ServiceName, "") != "nbd-e" || ptr.Deref(e.Status.ObservedGeneration, 0) != e.Generation {
		t.Errorf("status: %+v", e.Status)
	}
	var svc corev1.Service
	get(t, w.key("nbd-e"), &svc)
	if !metav1.IsControlledBy(&svc, e) || svc.Spec.Ports[0].Port != 10809 || svc.Spec.Selector[v1alpha1.LabelExport] != "e" {
		t.Errorf("Service: %+v", svc.Spec)
	}

	w.remove(vm)
	w.deleting(pod)
	e = w.read("e")
	if x := e.Status.Exit; x == nil || x.Condition != "vm-gone" || x.Reason != v1alpha1.ExitPodDeleted || x.StartedAt == nil || x.Clean != nil {
		t.Fatalf("the pod is on its way out, and this is on record: %+v", x)
	}
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonDraining)

	w.end(pod, "signal=SIGTERM", 0)
	e = w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonDrained)
	x := e.Status.Exit
	if x.Condition != "vm-gone" || x.FinishedAt == nil || x.Clean == nil || !*x.Clean || *x.BytesRead != 4096 || *x.BytesWritten != 512 {
		t.Errorf("exit: %+v", x)
	}
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonCompleted)
	w.expect("e", v1alpha1.ConditionFailed, no, v1alpha1.ReasonDrained)
	w.gone(pod)

	eventually(t, "Events of the life", func() string {
		var list eventsv1.EventList
		if err := kube.List(context.Background(), &list, client.InNamespace(w.ns)); err != nil {
			return err.Error()
		}
		var seen []string
		for _, ev := range list.Items {
			seen = append(seen, ev.Reason)
		}
		all := strings.Join(seen, " ")
		for _, want := range []string{v1alpha1.ReasonServing, v1alpha1.EventExitConditionMet, v1alpha1.ReasonDrained} {
			if !strings.Contains(all, want) {
				return "no " + want + " among " + all
			}
		}
		return ""
	})

	// A pod of the same name doesn't bring it back.
	w.kill(vm)
	w.user("vm", "node-1", "")
	w.settled("e")
	if !w.absent(pod) {
		t.Error("there is a pod again although the export is complete")
	}
}

// TestFileCreated ends an export from within its pod.
func TestFileCreated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, pod := running(w)
	w.end(pod, "file-created=/run/nbdexport/stop", 0)
	e := w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonDrained)
	if x := e.Status.Exit; x.Condition != "stop" || x.Reason != v1alpha1.ExitFileCreated || !*x.Clean {
		t.Errorf("exit: %+v", x)
	}
	// The pod stays for its logs, and nothing holds it.
	eventually(t, "the pod should be let go", func() string {
		get(t, w.key("nbd-e"), pod)
		return strings.Join(pod.Finalizers, " ")
	})
	if !pod.DeletionTimestamp.IsZero() {
		t.Error("the pod was deleted")
	}
}

// TestUnclean ends with clients cut off, and with a failed flush.
func TestUnclean(t *testing.T) {
	t.Parallel()
	for code, reason := range map[int]string{3: v1alpha1.ReasonClientsCutOff, 4: v1alpha1.ReasonFlushFailed} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			vm, pod := running(w)
			w.remove(vm)
			w.deleting(pod)
			w.end(pod, "signal=SIGTERM", code)
			e := w.expect("e", v1alpha1.ConditionFailed, yes, reason)
			w.expect("e", v1alpha1.ConditionComplete, yes, reason)
			if e.Status.Exit.Clean == nil || *e.Status.Exit.Clean {
				t.Errorf("exit: %+v", e.Status.Exit)
			}
		})
	}
}

// TestAlreadyTrue creates an export whose VM isn't there: no pod is ever made.
func TestAlreadyTrue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.export("e", untilVMGone)
	e := w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonNeverStarted)
	if x := e.Status.Exit; x.Condition != "vm-gone" || !*x.Clean || x.FinishedAt == nil {
		t.Errorf("exit: %+v", x)
	}
	w.settled("e")
	if !w.absent(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "nbd-e"}}) {
		t.Error("a pod was made")
	}
}

// TestVMFinished takes a VM that has finished for one that is gone.
func TestVMFinished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm, pod := running(w)
	w.kubelet(vm, func(s *corev1.PodStatus) { s.Phase = corev1.PodSucceeded })
	w.deleting(pod)
}

// TestDeletedByHand deletes the export's pod: that is no end, a new one follows,
// and not before the old one is over.
func TestDeletedByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, pod := running(w)
	w.remove(pod)
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonReplacing)
	w.settled("e")
	get(t, w.key("nbd-e"), pod)
	if pod.DeletionTimestamp.IsZero() {
		t.Fatal("there is a new pod while the old one runs")
	}
	w.end(pod, "signal=SIGTERM", 0)
	again := w.pod("nbd-e", pod)
	w.serve(again)
	e := w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	if e.Status.Exit != nil {
		t.Errorf("exit: %+v", e.Status.Exit)
	}
}

// TestReportLost lets the pod vanish in its drain.
func TestReportLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm, pod := running(w)
	w.remove(vm)
	w.deleting(pod)
	w.endWith(pod, 0, "")
	e := w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonReportLost)
	if e.Status.Exit.Clean != nil {
		t.Errorf("clean is %v although nobody knows", *e.Status.Exit.Clean)
	}
	w.gone(pod)
}

// TestOperatorRestarts stops the operator at each step of the main job and has
// another one go on.
func TestOperatorRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	restart := func() { w.stop(); w.start() }
	vm, pod := running(w)

	w.stop()
	w.remove(vm) // nobody is there to see it
	get(t, w.key("nbd-e"), pod)
	if !pod.DeletionTimestamp.IsZero() {
		t.Fatal("the end of the operator has deleted the pod")
	}
	w.start()
	w.deleting(pod)
	restart()
	w.stop()
	w.end(pod, "signal=SIGTERM", 0) // the pod's last status, seen by nobody
	w.start()
	w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonDrained)
	w.gone(pod)
	restart()
	w.settled("e")
	if !w.absent(pod) {
		t.Error("there is a pod again although the export is complete")
	}
}

// TestRecordedThenCrashed begins with what an operator leaves that ended between
// the record of the exit and the deletion of the pod.
func TestRecordedThenCrashed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, pod := running(w)
	w.stop()
	e := w.read("e")
	base := e.DeepCopy()
	now := metav1.Now()
	e.Status.Exit = &v1alpha1.ExitStatus{Condition: "vm-gone", Reason: v1alpha1.ExitPodDeleted, StartedAt: &now}
	if err := kube.Status().Patch(context.Background(), e, client.MergeFrom(base)); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.deleting(pod)
	w.end(pod, "signal=SIGTERM", 0)
	w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonDrained)
}

// TestExportDeleted deletes an export that serves: it goes when its pod is over.
func TestExportDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, pod := running(w)
	w.remove(w.read("e"))
	w.deleting(pod)
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonDeleting)
	w.end(pod, "signal=SIGTERM", 0)
	w.gone(pod)
	w.gone(&v1alpha1.NBDExport{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "e"}})
}

// TestFinalizerTakenOff removes an export without waiting for its pod, which is
// let go all the same when it is over.
func TestFinalizerTakenOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, pod := running(w)
	w.stop()
	e := w.read("e")
	base := e.DeepCopy()
	e.Finalizers = nil
	if err := kube.Patch(context.Background(), e, client.MergeFrom(base)); err != nil {
		t.Fatal(err)
	}
	w.remove(e)
	w.start()
	w.remove(pod) // there is no garbage collector here to do it
	w.end(pod, "signal=SIGTERM", 0)
	w.gone(pod)
}

// orphan does to a pod what the garbage collector does for
// "kubectl delete --cascade=orphan".
func (w *world) orphan(pod *corev1.Pod) {
	w.Helper()
	get(w.T, client.ObjectKeyFromObject(pod), pod)
	base := pod.DeepCopy()
	pod.OwnerReferences = nil
	if err := kube.Patch(context.Background(), pod, client.MergeFrom(base)); err != nil {
		w.Fatal(err)
	}
}

// TestOrphaned leaves the pod of an export without an owner: it isn't taken over, but
// drains, and a new one follows. When the export is deleted, it stays until such a pod has
// drained.
func TestOrphaned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, pod := running(w)
	w.orphan(pod)
	w.deleting(pod)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonReplacing)
	says(t, message(e, v1alpha1.ConditionReady), "pod nbd-e", "lost its owner", "--cascade=orphan")
	// A kubelet says first that the pod has ended, and a while later lets it go.
	w.kubelet(pod, func(s *corev1.PodStatus) { s.Phase = corev1.PodSucceeded })
	eventually(t, "the pod should be let go", func() string {
		get(t, w.key("nbd-e"), pod)
		return strings.Join(pod.Finalizers, " ")
	})
	w.settled("a")
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonReplacing)
	w.kill(pod)
	again := w.pod("nbd-e", pod)
	w.serve(again)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)

	w.stop()
	w.orphan(again)
	w.remove(w.read("e"))
	w.start()
	w.deleting(again)
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonDeleting)
	w.end(again, "signal=SIGTERM", 0)
	w.gone(again)
	w.gone(&v1alpha1.NBDExport{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "e"}})
}

// TestOrphanedAlone leaves a pod without an owner and without its export, under a
// name that the pod's label has only the beginning of. One that is somebody
// else's by then is left alone.
func TestOrphanedAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	name := strings.Repeat("e", 100)
	foreign := serving(w, "foreign")
	pod := serving(w, name)
	w.stop()
	for _, e := range []*v1alpha1.NBDExport{w.read("foreign"), w.read(name)} {
		base := e.DeepCopy()
		e.Finalizers = nil
		if err := kube.Patch(context.Background(), e, client.MergeFrom(base)); err != nil {
			t.Fatal(err)
		}
		w.remove(e)
	}
	w.orphan(pod)
	w.orphan(foreign)
	base := foreign.DeepCopy()
	foreign.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "x", UID: "1", Controller: ptr.To(true)}}
	if err := kube.Patch(context.Background(), foreign, client.MergeFrom(base)); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.deleting(pod)
	w.end(pod, "signal=SIGTERM", 0)
	w.gone(pod)
	w.settled("e")
	untouched(t, foreign, &corev1.Pod{})
}

// serving makes an export and brings it to where it serves.
func serving(w *world, name string) *corev1.Pod {
	w.Helper()
	w.export(name, "volumes: [{name: a, source: {memory: {size: 1}}}]\ntls: {mode: Disabled}")
	pod := w.pod(desired.ChildName(name), nil)
	w.serve(pod)
	w.expect(name, v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	return pod
}

// TestExportDeletedUnscheduled deletes an export whose pod never ran.
func TestExportDeletedUnscheduled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("vm", "node-1", "")
	w.export("e", untilVMGone)
	pod := w.pod("nbd-e", nil)
	w.expect("e", v1alpha1.ConditionProgressing, yes, v1alpha1.ReasonStarting)
	w.remove(w.read("e"))
	w.gone(pod)
	w.gone(&v1alpha1.NBDExport{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "e"}})
}

// TestExportDeletedComplete deletes an export that has ended.
func TestExportDeletedComplete(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, pod := running(w)
	w.end(pod, "file-created=/run/nbdexport/stop", 0)
	w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonDrained)
	w.remove(w.read("e"))
	w.gone(&v1alpha1.NBDExport{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "e"}})
}
