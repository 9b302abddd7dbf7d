package controller_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// onCopy is a CopyOnWrite export of the claim "disk".
var onCopy = strings.Replace(ofClaim, "tls:", "  access: CopyOnWrite\n  scratch: {sizeLimit: 1Gi}\ntls:", 1)

// booting makes a CopyOnWrite export and brings it to where it serves.
func booting(w *world) *corev1.Pod {
	w.Helper()
	w.claim("disk", corev1.ReadOnlyMany, false)
	w.export("e", onCopy)
	pod := w.pod("nbd-e", nil)
	w.serve(pod)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	return pod
}

// TestGoldenImage has two exports copy one claim at once, which nobody may write to
// until both have ended.
func TestGoldenImage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("disk", corev1.ReadWriteMany, false)
	w.export("a", onCopy)
	w.export("b", onCopy)
	for _, name := range []string{"nbd-a", "nbd-b"} {
		pod := w.pod(name, nil)
		if pod.Spec.RestartPolicy != corev1.RestartPolicyNever {
			t.Errorf("%s: restartPolicy %s", name, pod.Spec.RestartPolicy)
		}
		c := pod.Spec.Containers[0]
		if got := c.Resources.Requests[corev1.ResourceEphemeralStorage]; got.Cmp(resource.MustParse("1Gi")) != 0 {
			t.Errorf("%s asks for %s of the node's disk", name, got.String())
		}
		says(t, c.Args[len(c.Args)-1], "access=copy-on-write", "scratch-size=1073741824")
		for _, m := range c.VolumeMounts {
			if strings.HasPrefix(m.MountPath, "/volumes/") && !m.ReadOnly {
				t.Errorf("%s can write to the claim", name)
			}
		}
	}
	w.export("c", strings.Replace(ofClaim, "tls:", "  access: ReadWrite\ntls:", 1))
	e := w.expect("c", v1alpha1.ConditionReady, no, v1alpha1.ReasonVolumeInUse)
	says(t, message(e, v1alpha1.ConditionReady), "PersistentVolumeClaim disk", "CopyOnWrite")
	w.remove(w.read("a"))
	w.gone(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "nbd-a"}})
	w.expect("c", v1alpha1.ConditionReady, no, v1alpha1.ReasonVolumeInUse)
	w.settled("c")
	if len(w.havePods("c")) > 0 {
		t.Fatal("the claim is written to while it is copied")
	}
	w.remove(w.read("b"))
	w.pod("nbd-c", nil)
}

// TestScratchLost ends an export whose server ends by itself after it was ready.
func TestScratchLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod := booting(w)
	w.endWith(pod, 137, "out of memory")
	e := w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonScratchLost)
	w.expect("e", v1alpha1.ConditionFailed, yes, v1alpha1.ReasonScratchLost)
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonCompleted)
	says(t, message(e, v1alpha1.ConditionComplete), "pod nbd-e has ended without an exit condition", "exit code 137", "out of memory", "create the export anew")
	if x := e.Status.Exit; x.Condition != v1alpha1.ExitScratchLost || x.Reason != v1alpha1.ExitScratchLost || *x.Clean || x.FinishedAt == nil {
		t.Errorf("exit: %+v", x)
	}
	// The pod stays for its logs, nothing holds it, and no other one follows.
	eventually(t, "the pod should be let go", func() string {
		get(t, w.key("nbd-e"), pod)
		return strings.Join(pod.Finalizers, " ")
	})
	w.remove(pod)
	w.gone(pod)
	w.settled("e")
	if len(w.havePods("e")) > 0 {
		t.Error("there is a pod again")
	}
}

// TestScratchLostByHand deletes the pod of such an export.
func TestScratchLostByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod := booting(w)
	w.remove(pod)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonDraining)
	says(t, message(e, v1alpha1.ConditionReady), "the pod nbd-e was told to end", "the export ends")
	w.end(pod, "signal=SIGTERM", 0)
	e = w.expect("e", v1alpha1.ConditionFailed, yes, v1alpha1.ReasonScratchLost)
	if x := e.Status.Exit; *x.BytesWritten != 512 || x.StartedAt == nil {
		t.Errorf("exit: %+v", x)
	}
	w.gone(pod)
	w.settled("e")
	if len(w.havePods("e")) > 0 {
		t.Error("there is a pod again")
	}
}

// TestScratchLostByForce has a pod vanish with all that held it, while there was no
// operator.
func TestScratchLostByForce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod := booting(w)
	w.stop()
	get(t, w.key("nbd-e"), pod)
	pod.Finalizers = nil
	if err := kube.Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	w.kill(pod)
	w.gone(pod)
	w.start()
	e := w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonScratchLost)
	says(t, message(e, v1alpha1.ConditionComplete), "the export's pod is gone")
	if len(w.havePods("e")) > 0 {
		t.Error("there is a pod again")
	}
}

// TestNoScratchYet replaces a pod that never was ready: one that somebody deletes, and
// one whose server can't start, ten seconds after its end.
func TestNoScratchYet(t *testing.T) {
	t.Parallel()
	w, clock := newWorldOnClock(t)
	w.claim("disk", corev1.ReadOnlyMany, false)
	w.export("e", onCopy)
	first := w.pod("nbd-e", nil)
	w.remove(first)
	pod := w.pod("nbd-e", first)

	w.bind(pod, "node-1")
	start := w.read("e").CreationTimestamp
	clock.SetTime(start.Add(9900 * time.Millisecond))
	w.kubelet(pod, func(s *corev1.PodStatus) {
		s.StartTime = &start
		s.Phase = corev1.PodFailed
		s.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: start}}
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "nbdserver", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: 1, Reason: "Error", Message: "nbdserver: disk.img: no such file", FinishedAt: start}}}}
	})
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonServerFailed)
	says(t, message(e, v1alpha1.ConditionReady), "disk.img: no such file", "in a new pod")
	w.settled("e")
	same(t, pod)
	// It looks again by itself when the last tenth is over.
	clock.SetTime(start.Add(10 * time.Second))
	w.pod("nbd-e", pod)
	w.expect("e", v1alpha1.ConditionComplete, no, v1alpha1.ReasonNotEnded)
}
