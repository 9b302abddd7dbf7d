package controllers

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// unheardOf is what Kubernetes does to the pod of a node from which it hears nothing.
func unheardOf(o *observed) *corev1.Pod {
	runs(withPod(o))
	o.pod.Status.Conditions[0].Status = corev1.ConditionFalse
	o.node = node{state: nodeUnreachable, why: "NodeStatusUnknown"}
	return o.pod
}

// targeted marks a pod as Kubernetes does when it ends it.
func targeted(pod *corev1.Pod, reason, message string) {
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message})
}

// TestLostNode is what becomes of a pod whose node is heard of no more.
func TestLostNode(t *testing.T) {
	const off = "if it is certain that it is powered off, delete the Node, taint it with node.kubernetes.io/out-of-service, or delete the pod by force"
	late := func(o *observed) { o.now = noon.Add(overdueMargin) }
	for _, c := range []struct {
		name  string
		scene func(*observed)

		pod           podAction
		releasePod    bool
		releaseExport bool
		again         time.Duration
		exit          string
		ready         string
		progressing   string
		words         []string // in the message of Ready
	}{
		{name: "unreachable", scene: func(o *observed) { unheardOf(o) },
			ready: "False NodeUnreachable", progressing: "False NodeUnreachable", words: []string{"node node-7", "pod nbd-e", "NodeStatusUnknown", "bring the node back", off}},
		{name: "ready again", scene: func(o *observed) { unheardOf(o); o.node.state = nodeReady },
			ready: "False NotReady", progressing: "True NotReady"},
		{name: "unreachable, and the spec was changed", scene: func(o *observed) {
			unheardOf(o)
			edit(o, func(s *v1alpha1.NBDExportSpec) { s.PollSeconds = ptr.To[int32](7) })
		}, pod: podRemove, ready: "False NodeUnreachable", progressing: "False NodeUnreachable"},
		{name: "unreachable, deleted for its taint", scene: func(o *observed) {
			deleted(unheardOf(o))
			targeted(o.pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
		}, again: overdueMargin, ready: "False NodeUnreachable", progressing: "False NodeUnreachable", words: []string{"was told to end", "node-7", "nothing takes its place", off}},
		{name: "unreachable for a day", scene: func(o *observed) {
			deleted(unheardOf(o))
			o.now = noon.Add(24 * time.Hour)
		}, again: nodeDelay, ready: "False NodeUnreachable", progressing: "False NodeUnreachable"},
		{name: "phase unknown, as long ago", scene: func(o *observed) {
			deleted(unheardOf(o))
			o.pod.Status.Phase, o.pod.Status.Reason = corev1.PodUnknown, "NodeLost"
		}, again: overdueMargin, ready: "False NodeUnreachable", progressing: "False NodeUnreachable"},
		{name: "gone, the pod wasn't told to end yet", scene: func(o *observed) { unheardOf(o); o.node.state = nodeLost },
			ready: "False NotReady", progressing: "True NotReady"},
		{name: "gone, the pod has its time still", scene: func(o *observed) { deleted(unheardOf(o)); o.node.state = nodeLost },
			again: overdueMargin, ready: "False Replacing", progressing: "True Replacing"},
		{name: "gone or out of service", scene: func(o *observed) {
			deleted(unheardOf(o))
			o.node.state = nodeLost
			late(o)
		}, releasePod: true, ready: "False Replacing", progressing: "True Replacing", words: []string{"its node node-7 is gone or out of service"}},
		{name: "Kubernetes has given the pod up", scene: func(o *observed) {
			deleted(unheardOf(o))
			o.pod.DeletionGracePeriodSeconds = ptr.To[int64](0)
			o.pod.Status.Phase, o.node = corev1.PodFailed, node{}
			targeted(o.pod, "DeletionByPodGC", "PodGC: node no longer exists")
		}, releasePod: true, ready: "False Replacing", progressing: "True Replacing", words: []string{"DeletionByPodGC: PodGC: node no longer exists"}},

		{name: "to end: unreachable", scene: func(o *observed) {
			deleted(unheardOf(o))
			recordedExit(o)
		}, exit: "vm-gone", again: overdueMargin, ready: "False NodeUnreachable", progressing: "False NodeUnreachable", words: []string{off}},
		{name: "to end: gone", scene: func(o *observed) {
			deleted(unheardOf(o))
			recordedExit(o)
			o.node.state = nodeLost
			late(o)
		}, exit: "vm-gone", ready: "False Completed", progressing: "False Completed", words: []string{"left no report"}},

		{name: "being deleted: unreachable", scene: func(o *observed) {
			deleted(unheardOf(o))
			deletedExport(o)
		}, again: overdueMargin, ready: "False NodeUnreachable", progressing: "False NodeUnreachable", words: []string{off}},
		{name: "being deleted: gone", scene: func(o *observed) {
			deleted(unheardOf(o))
			deletedExport(o)
			o.node.state = nodeLost
			late(o)
		}, releasePod: true, again: nodeDelay, ready: "False Deleting", progressing: "True Deleting"},
		{name: "being deleted: gone, pod let go", scene: func(o *observed) {
			deleted(unheardOf(o))
			deletedExport(o)
			o.pod.Finalizers = nil
			o.node.state = nodeLost
			late(o)
		}, releaseExport: true},

		{name: "orphaned: unreachable", scene: func(o *observed) {
			deleted(withOrphan(o))
			o.node = node{state: nodeUnreachable}
		}, again: overdueMargin, ready: "False NodeUnreachable", progressing: "False NodeUnreachable"},

		{name: "overdue on a node that is ready", scene: func(o *observed) {
			deleted(withPod(o))
			o.node.state = nodeReady
			late(o)
		}, again: nodeDelay, ready: "False PodOverdue", progressing: "False PodOverdue", words: []string{"2026-01-02T12:00:00Z", "node node-7 is ready", "kubelet"}},
		{name: "overdue on a node that may not be read", scene: func(o *observed) {
			deleted(withPod(o))
			o.node.state = nodeUnknown
			late(o)
		}, again: nodeDelay, ready: "False PodOverdue", progressing: "False PodOverdue", words: []string{"see whether its node node-7 is ready", off}},

		{name: "evicted through the API", scene: func(o *observed) {
			deleted(withPod(o))
			targeted(o.pod, "EvictionByEvictionAPI", "Eviction API: evicting")
		}, again: overdueMargin, ready: "False Replacing", progressing: "True Replacing",
			words: []string{"the pod nbd-e was told to end (EvictionByEvictionAPI: Eviction API: evicting)", "by 2026-01-02T12:00:00Z at the latest"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := scene()
			c.scene(o)
			p := decide(o)
			if p.pod != c.pod || p.releasePod != c.releasePod || p.releaseExport != c.releaseExport || p.again != c.again {
				t.Errorf("pod %v, release pod %v, release export %v, again %v\nwant %v, %v, %v, %v",
					p.pod, p.releasePod, p.releaseExport, p.again, c.pod, c.releasePod, c.releaseExport, c.again)
			}
			exit := ""
			if p.exit != nil {
				exit = p.exit.Condition
			}
			if exit != c.exit {
				t.Errorf("exit %q, want %q", exit, c.exit)
			}
			ready, message := said(p, v1alpha1.ConditionReady)
			if progressing, _ := said(p, v1alpha1.ConditionProgressing); ready != c.ready || progressing != c.progressing {
				t.Errorf("Ready is %q, Progressing %q: %s", ready, progressing, message)
			}
			for _, w := range c.words {
				if !strings.Contains(message, w) {
					t.Errorf("no %q in %q", w, message)
				}
			}
		})
	}
}

func recordedExit(o *observed) {
	at := metav1.NewTime(noon)
	o.export.Status.Exit = &v1alpha1.ExitStatus{Condition: "vm-gone", Reason: v1alpha1.ExitPodDeleted, StartedAt: &at}
}

func deletedExport(o *observed) {
	at := metav1.NewTime(noon)
	o.export.DeletionTimestamp = &at
}

// oneNode is an API server with one node, or an error in its place.
type oneNode struct {
	client.Reader
	node *corev1.Node
	err  error
	asks int
}

func (n *oneNode) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	n.asks++
	if n.err == nil {
		*obj.(*corev1.Node) = *n.node
	}
	return n.err
}

// TestNodeOf reads the node of a pod, and only where there is cause to.
func TestNodeOf(t *testing.T) {
	nodes := schema.GroupResource{Resource: "nodes"}
	with := func(status corev1.ConditionStatus, taints ...string) *corev1.Node {
		n := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse},
			{Type: corev1.NodeReady, Status: status, Reason: "KubeletSays"}}}}
		for _, key := range taints {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key})
		}
		return n
	}
	for _, c := range []struct {
		name string
		node *corev1.Node
		err  error
		want node
	}{
		{"ready", with(corev1.ConditionTrue), nil, node{state: nodeReady}},
		{"ready, and declared out of service all the same", with(corev1.ConditionTrue, corev1.TaintNodeOutOfService), nil, node{state: nodeReady}},
		{"unknown", with(corev1.ConditionUnknown, corev1.TaintNodeUnreachable), nil, node{nodeUnreachable, "KubeletSays"}},
		{"not ready", with(corev1.ConditionFalse, corev1.TaintNodeNotReady), nil, node{nodeUnreachable, "KubeletSays"}},
		{"no status yet", &corev1.Node{}, nil, node{nodeUnreachable, "no status"}},
		{"out of service", with(corev1.ConditionUnknown, corev1.TaintNodeUnreachable, corev1.TaintNodeOutOfService), nil, node{state: nodeLost}},
		{"gone", nil, apierrors.NewNotFound(nodes, "node-7"), node{state: nodeLost}},
		{"forbidden", nil, apierrors.NewForbidden(nodes, "node-7", errors.New("no")), node{state: nodeUnknown}},
	} {
		pod := withPod(scene())
		deleted(pod)
		r := &Reconciler{Live: &oneNode{node: c.node, err: c.err}}
		if got, err := r.nodeOf(context.Background(), pod, noon.Add(overdueMargin)); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
	broken := errors.New("connection refused")
	pod := withPod(scene())
	deleted(pod)
	r := &Reconciler{Live: &oneNode{err: broken}}
	if _, err := r.nodeOf(context.Background(), pod, noon.Add(overdueMargin)); !errors.Is(err, broken) {
		t.Errorf("an error that passes: %v", err)
	}

	for _, c := range []struct {
		name string
		pod  func(*observed)
		want int
	}{
		{"no pod", func(*observed) {}, 0},
		{"serves", func(o *observed) { runs(withPod(o)) }, 0},
		{"not ready, its kubelet says", func(o *observed) {
			runs(withPod(o))
			o.pod.Status.Conditions[0].Status, o.pod.Status.ContainerStatuses[0].Ready = corev1.ConditionFalse, false
		}, 0},
		{"not ready, somebody else says", func(o *observed) { unheardOf(o) }, 1},
		{"told to end", func(o *observed) { deleted(withPod(o)); o.now = noon.Add(overdueMargin - 1) }, 0},
		{"overdue", func(o *observed) { deleted(withPod(o)); o.now = noon.Add(overdueMargin) }, 1},
		{"overdue, finished", func(o *observed) {
			deleted(withPod(o))
			o.pod.Status.Phase = corev1.PodFailed
			o.now = noon.Add(overdueMargin)
		}, 0},
		{"deleted by force", func(o *observed) {
			deleted(withPod(o))
			o.pod.DeletionGracePeriodSeconds = ptr.To[int64](0)
			o.now = noon.Add(overdueMargin)
		}, 0},
		{"on no node", func(o *observed) {
			deleted(withPod(o))
			o.pod.Spec.NodeName = ""
			o.now = noon.Add(overdueMargin)
		}, 0},
	} {
		o := scene()
		c.pod(o)
		live := &oneNode{node: with(corev1.ConditionTrue)}
		r := &Reconciler{Live: live}
		if _, err := r.nodeOf(context.Background(), o.pod, o.now); err != nil || live.asks != c.want {
			t.Errorf("%s: asked %d times, want %d; %v", c.name, live.asks, c.want, err)
		}
	}
}
