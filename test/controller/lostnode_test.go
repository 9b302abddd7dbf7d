package controller_test

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// servingOn makes the export "e" on a node of the test's own, with an operator that has a
// clock of the test's own.
func servingOn(t *testing.T) (w *world, clock *clocktesting.FakePassiveClock, node *corev1.Node, pod *corev1.Pod) {
	t.Helper()
	w, clock = newWorldOnClock(t)
	node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{GenerateName: "node-"}}
	w.must(node)
	w.user("vm", node.Name, "")
	w.export("e", untilVMGone)
	pod = w.pod("nbd-e", nil)
	w.bind(pod, node.Name)
	w.heard(node, pod, corev1.ConditionTrue)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	return w, clock, node, pod
}

// heard is the part of the kubelet, or of those who hear nothing from it any more: of
// the pod they know only that it isn't ready.
func (w *world) heard(node *corev1.Node, pod *corev1.Pod, ready corev1.ConditionStatus) {
	w.Helper()
	get(w.T, client.ObjectKeyFromObject(node), node)
	base := node.DeepCopy()
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, Reason: "NodeStatusUnknown"}}
	if err := kube.Status().Patch(context.Background(), node, client.MergeFrom(base)); err != nil {
		w.Fatal(err)
	}
	w.kubelet(pod, func(s *corev1.PodStatus) {
		s.Phase = corev1.PodRunning
		s.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		if ready != corev1.ConditionTrue {
			s.Conditions[0].Status = corev1.ConditionFalse
		}
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "nbdserver", Ready: true,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	})
}

// TestNodeUnreachable loses a node, finds it again, and loses it for good: its pod is
// waited for until somebody says that the node is out of service.
func TestNodeUnreachable(t *testing.T) {
	t.Parallel()
	w, clock, node, pod := servingOn(t)
	w.heard(node, pod, corev1.ConditionUnknown)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonNodeUnreachable)
	says(t, message(e, v1alpha1.ConditionReady), node.Name, "pod nbd-e", "NodeStatusUnknown", "node.kubernetes.io/out-of-service")
	w.expect("e", v1alpha1.ConditionProgressing, no, v1alpha1.ReasonNodeUnreachable)
	w.heard(node, pod, corev1.ConditionTrue)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)

	w.heard(node, pod, corev1.ConditionUnknown)
	w.remove(pod) // for its taint, after five minutes
	eventually(t, "the message should say that nothing takes the pod's place", func() string {
		if m := message(w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonNodeUnreachable), v1alpha1.ConditionReady); !strings.Contains(m, "nothing takes its place") {
			return m
		}
		return ""
	})
	get(t, w.key("nbd-e"), pod)
	clock.SetTime(pod.DeletionTimestamp.Add(time.Hour))
	wake(w, pod, "later")
	w.settled("e")
	get(t, w.key("nbd-e"), pod)
	if len(pod.Finalizers) == 0 {
		t.Fatal("the pod was let go although its server may write")
	}
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonNodeUnreachable)

	get(t, client.ObjectKeyFromObject(node), node)
	base := node.DeepCopy()
	node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute})
	if err := kube.Patch(context.Background(), node, client.MergeFrom(base)); err != nil {
		t.Fatal(err)
	}
	wake(w, pod, "tainted")
	eventually(t, "the pod should be let go", func() string {
		get(t, w.key("nbd-e"), pod)
		return strings.Join(pod.Finalizers, " ")
	})
	w.kill(pod) // by the garbage collector of pods
	w.pod("nbd-e", pod)
}

// TestNodeGone deletes an export whose pod's node is deleted then: it goes, and not
// before the pod's time is over.
func TestNodeGone(t *testing.T) {
	t.Parallel()
	w, clock, node, pod := servingOn(t)
	w.heard(node, pod, corev1.ConditionUnknown)
	w.remove(w.read("e"))
	w.deleting(pod)
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonNodeUnreachable)
	w.remove(node)
	wake(w, pod, "at-once")
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonDeleting)
	w.settled("e")
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonDeleting)
	clock.SetTime(pod.DeletionTimestamp.Add(time.Minute))
	wake(w, pod, "later")
	w.gone(&v1alpha1.NBDExport{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "e"}})
}

// TestGivenUp takes Kubernetes at its word that nothing runs any more on a node.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	w, _, node, pod := servingOn(t)
	w.remove(node)
	w.kubelet(pod, func(s *corev1.PodStatus) {
		s.Phase = corev1.PodFailed
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
			Reason: "DeletionByPodGC", Message: "PodGC: node no longer exists"})
	})
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonReplacing)
	says(t, message(e, v1alpha1.ConditionReady), "DeletionByPodGC: PodGC: node no longer exists")
	w.kill(pod)
	w.pod("nbd-e", pod)
}

// TestOverdue has a node that is ready, and a pod there that doesn't end.
func TestOverdue(t *testing.T) {
	t.Parallel()
	w, clock, node, pod := servingOn(t)
	w.remove(pod)
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonReplacing)
	get(t, w.key("nbd-e"), pod)
	clock.SetTime(pod.DeletionTimestamp.Add(time.Minute))
	wake(w, pod, "later")
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonPodOverdue)
	says(t, message(e, v1alpha1.ConditionReady), "pod nbd-e", pod.DeletionTimestamp.UTC().Format(time.RFC3339), node.Name, "kubelet")
}

// TestEvicted evicts the pod as "kubectl drain" does: it drains in its time, and a new
// one follows, to where its claim is by then.
func TestEvicted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("disk", corev1.ReadWriteOnce, false)
	vm := w.user("vm", "node-1", "disk")
	w.export("e", ofClaim)
	pod := w.pod("nbd-e", nil)
	w.serve(pod)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)

	if err := kube.SubResource("eviction").Create(context.Background(), pod, &policyv1.Eviction{}); err != nil {
		t.Fatal(err)
	}
	w.deleting(pod)
	if *pod.DeletionGracePeriodSeconds != *pod.Spec.TerminationGracePeriodSeconds {
		t.Errorf("it has %d seconds to drain", *pod.DeletionGracePeriodSeconds)
	}
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonReplacing)
	says(t, message(e, v1alpha1.ConditionReady), "pod nbd-e was told to end (EvictionByEvictionAPI", "by "+pod.DeletionTimestamp.UTC().Format(time.RFC3339))

	w.remove(vm)
	w.kill(vm)
	w.user("vm-2", "node-2", "disk")
	w.end(pod, "signal=SIGTERM", 0)
	if got := node(w.pod("nbd-e", pod)); got != "node-2" {
		t.Errorf("the new pod wants node %q", got)
	}
}
