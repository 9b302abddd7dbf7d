package controller_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// toWrite is a ReadWrite export of the claim "disk", which ends with the pod vm.
var toWrite = strings.Replace(ofClaim, "tls:", "  access: ReadWrite\nexitWhen: [{name: vm-gone, podDeleted: {name: vm}}]\ntls:", 1)

// havePods are those of the given exports that have a pod.
func (w *world) havePods(exports ...string) []string {
	w.Helper()
	var out []string
	for _, name := range exports {
		if !w.absent(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "nbd-" + name}}) {
			out = append(out, name)
		}
	}
	return out
}

// TestOneWriter has a second export wait for the end of a first one that writes,
// and a third for the deletion of the second.
func TestOneWriter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("disk", corev1.ReadWriteMany, false)
	vm := w.user("vm", "node-1", "")
	w.export("a", toWrite)
	pod := w.pod("nbd-a", nil)
	w.serve(pod)
	w.expect("a", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)

	w.export("b", ofClaim)
	e := w.expect("b", v1alpha1.ConditionReady, no, v1alpha1.ReasonVolumeInUse)
	says(t, message(e, v1alpha1.ConditionReady), "pod nbd-a", "NBDExport a", "PersistentVolumeClaim disk", "ReadOnly")
	w.settled("b")
	if got := w.havePods("b"); len(got) > 0 {
		t.Fatal("a second server was started on the volume")
	}
	w.expect("a", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)

	w.remove(vm)
	w.deleting(pod)
	w.end(pod, "signal=SIGTERM", 0)
	w.expect("a", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonDrained)
	second := w.pod("nbd-b", nil)

	w.export("c", strings.Replace(ofClaim, "tls:", "  access: ReadWrite\ntls:", 1))
	w.expect("c", v1alpha1.ConditionReady, no, v1alpha1.ReasonVolumeInUse)
	w.remove(w.read("b"))
	w.gone(second)
	w.pod("nbd-c", nil)
}

// TestPlaceGivenUp has an export wait for an older one that has no pod either, and
// start when that one is deleted.
func TestPlaceGivenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("disk", corev1.ReadWriteMany, false)
	w.export("a", strings.Replace(ofClaim, "tls:", "  access: ReadWrite\n- name: other\n  source: {persistentVolumeClaim: {claimName: missing}}\ntls:", 1))
	w.expect("a", v1alpha1.ConditionReady, no, v1alpha1.ReasonClaimNotFound)
	w.export("b", ofClaim)
	e := w.expect("b", v1alpha1.ConditionReady, no, v1alpha1.ReasonVolumeInUse)
	says(t, message(e, v1alpha1.ConditionReady), "NBDExport a was there first", "PersistentVolumeClaim disk")
	w.settled("b")
	w.remove(w.read("a"))
	w.pod("nbd-b", nil)
}

// TestTwoReaders lets two exports share a claim that only read it.
func TestTwoReaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("disk", corev1.ReadWriteMany, false)
	w.export("a", ofClaim)
	w.export("b", ofClaim)
	w.pod("nbd-a", nil)
	w.pod("nbd-b", nil)
}

// TestOneWriterOfMany makes many exports at once while several are reconciled at
// the same time. The next one follows when one goes, whether it has a pod or not.
func TestOneWriterOfMany(t *testing.T) {
	t.Parallel()
	w := &world{T: t, ns: namespace(t), parallel: 8}
	w.start()
	t.Cleanup(func() { w.stop() })
	var names []string
	for i := range 8 {
		names = append(names, fmt.Sprintf("e%d", i))
	}
	var all sync.WaitGroup
	for _, name := range names {
		all.Add(1)
		go func() {
			defer all.Done()
			if err := create(t, w.ns, name, strings.Replace(ofClaim, "tls:", "  access: ReadWrite\ntls:", 1)); err != nil {
				t.Error(err)
			}
		}()
	}
	all.Wait()
	w.claim("disk", corev1.ReadWriteMany, false)
	for left := names; len(left) > 0; {
		var have []string
		eventually(t, "an export should have a pod", func() string {
			if have = w.havePods(left...); len(have) == 0 {
				return "none has"
			}
			return ""
		})
		w.settled(fmt.Sprint(len(left)))
		if have = w.havePods(left...); len(have) != 1 {
			t.Fatalf("these have pods: %v", have)
		}
		// One that waits goes, then the one that has the pod.
		for i, name := range append(others(left, have[0]), have...) {
			if i == 0 || name == have[0] {
				w.remove(w.read(name))
				w.gone(&v1alpha1.NBDExport{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}})
				left = others(left, name)
			}
		}
	}
}

// others are the names without one.
func others(names []string, name string) []string {
	var out []string
	for _, n := range names {
		if n != name {
			out = append(out, n)
		}
	}
	return out
}

// TestVMReplacedUnseen replaces the VM by one of the same name while no operator
// runs.
func TestVMReplacedUnseen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm, pod := running(w)
	if got := w.read("e").Status.WatchedPods; len(got) != 1 || got[0].Name != "vm-gone" || got[0].UID != string(vm.UID) {
		t.Errorf("on record: %+v", got)
	}
	w.stop()
	w.kill(vm)
	w.user("vm", "node-1", "")
	w.start()
	w.deleting(pod)
	if x := w.read("e").Status.Exit; x == nil || x.Condition != "vm-gone" {
		t.Errorf("exit: %+v", x)
	}
}

// TestVMRecordedFirst has nobody who can make a pod: the VM is on record before
// there is one.
func TestVMRecordedFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.user("vm", "node-1", "")
	w.export("e", toWrite)
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonClaimNotFound)
	if got := w.read("e").Status.WatchedPods; len(got) != 1 || got[0].UID != string(vm.UID) {
		t.Errorf("on record: %+v", got)
	}
	w.stop()
	w.kill(vm)
	w.user("vm", "node-1", "")
	w.claim("disk", corev1.ReadWriteOnce, false)
	w.start()
	w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonNeverStarted)
	if len(w.havePods("e")) > 0 {
		t.Error("a pod was made")
	}
}

// TestStuckOnOtherNode has the VM take the claim to another node before the
// export's pod could start.
func TestStuckOnOtherNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("disk", corev1.ReadWriteOnce, false)
	w.export("e", ofClaim)
	pod := w.pod("nbd-e", nil)
	w.bind(pod, "node-1")
	w.kubelet(pod, func(s *corev1.PodStatus) {
		s.Phase = corev1.PodPending
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "nbdserver",
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}}}
	})
	w.user("vm", "node-2", "disk")
	w.deleting(pod)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonVolumeInUse)
	says(t, message(e, v1alpha1.ConditionReady), "pod vm", "node-2", "PersistentVolumeClaim disk", "node-1")
	w.kubelet(pod, func(s *corev1.PodStatus) { s.Phase = corev1.PodFailed })
	w.kill(pod)
	again := w.pod("nbd-e", pod)
	if got := node(again); got != "node-2" {
		t.Errorf("the pod wants node %q", got)
	}
	w.bind(again, "node-2")
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonStarting)
	w.settled("e")
	get(t, w.key("nbd-e"), pod)
	if pod.UID != again.UID || !pod.DeletionTimestamp.IsZero() {
		t.Error("the pod was made anew again")
	}
}

// TestNeverServed ends exports that have never served anybody.
func TestNeverServed(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]corev1.ContainerStatus{
		"unscheduled": {},
		"image": {Name: "nbdserver", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: 137, Reason: "ContainerStatusUnknown", FinishedAt: metav1.Now()}}},
		"failed": {Name: "nbdserver", RestartCount: 3, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: 1, Reason: "Error", Message: "nbdserver: disk.img: no such file", FinishedAt: metav1.Now()}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			vm := w.user("vm", "node-1", "")
			w.export("e", untilVMGone)
			pod := w.pod("nbd-e", nil)
			if name != "unscheduled" {
				w.bind(pod, "node-1")
				start := metav1.Now()
				w.kubelet(pod, func(s *corev1.PodStatus) {
					s.StartTime = &start
					s.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: start}}
				})
			}
			w.remove(vm)
			if name != "unscheduled" {
				w.deleting(pod)
				w.kubelet(pod, func(s *corev1.PodStatus) {
					s.Phase = corev1.PodFailed
					s.ContainerStatuses = []corev1.ContainerStatus{status}
				})
				w.kill(pod)
			}
			e := w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonNeverStarted)
			w.expect("e", v1alpha1.ConditionFailed, no, v1alpha1.ReasonNeverStarted)
			if x := e.Status.Exit; x.Clean == nil || !*x.Clean || x.Condition != "vm-gone" || *x.BytesRead != 0 {
				t.Errorf("exit: %+v", x)
			}
			w.gone(pod)
		})
	}
}

// TestClaimInTemplate has a claim twice in what would be one pod.
func TestClaimInTemplate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("disk", corev1.ReadWriteOnce, false)
	w.export("e", ofClaim+"template: {volumes: [{name: data, persistentVolumeClaim: {claimName: disk}}]}\n")
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonInvalidVolume)
	says(t, message(e, v1alpha1.ConditionReady), "volume data of the template", "PersistentVolumeClaim disk")
	w.noPod()
}

// TestFileTwice offers one file under two names, once to write.
func TestFileTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("disk", corev1.ReadWriteOnce, false)
	w.export("e", strings.Replace(ofClaim, "tls:", "- name: again\n  source: {persistentVolumeClaim: {claimName: disk, path: disk.img}}\n  access: ReadWrite\ntls:", 1))
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonInvalidVolume)
	says(t, message(e, v1alpha1.ConditionReady), "volumes disk and again", "disk.img")
	w.noPod()
}
