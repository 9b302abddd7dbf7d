package controllers

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

const (
	// overdueMargin is how long after the end of its grace period a pod may still be
	// there: the kubelet has killed its processes by then, and says so.
	overdueMargin = 30 * time.Second
	// nodeDelay is when the node of an overdue pod is looked at again: it isn't
	// watched.
	nodeDelay = 30 * time.Second
)

// nodeState is how it stands with a pod's node.
type nodeState int

const (
	// nodeUnasked is that of the node of a pod which gives no cause to ask.
	nodeUnasked nodeState = iota
	// nodeUnknown is that of a node which the operator may not read, as in the mode
	// for single namespaces.
	nodeUnknown
	nodeReady
	nodeUnreachable
	// nodeLost is that of a node which isn't there any more, or isn't ready and was
	// declared to be out of service: Kubernetes takes it that nothing runs there.
	nodeLost
)

// node is what was seen of a pod's node.
type node struct {
	state nodeState
	// why a node isn't ready, in a word or two.
	why string
}

// overdue tells whether a pod is still there although its processes had to end by
// now. One that was deleted by force isn't: see podOver.
func overdue(pod *corev1.Pod, now time.Time) bool {
	g := pod.DeletionGracePeriodSeconds
	return !pod.DeletionTimestamp.IsZero() && (g == nil || *g > 0) && !pod.DeletionTimestamp.Add(overdueMargin).After(now)
}

// cutOff tells whether a pod isn't ready although its server is. Either nothing is heard
// from its node, and it isn't the kubelet that says so; or an extra container isn't ready.
func cutOff(pod *corev1.Pod) bool {
	s, c := serverStatus(pod), podCondition(pod, corev1.PodReady)
	return s != nil && s.Ready && c != nil && c.Status == corev1.ConditionFalse
}

// nodeOf looks at the node of a pod of which nothing is heard.
//
// One node is asked for, and rarely: to watch them would bring every heartbeat of
// every node of the cluster.
func (r *Reconciler) nodeOf(ctx context.Context, pod *corev1.Pod, now time.Time) (node, error) {
	if pod == nil || pod.Spec.NodeName == "" || finished(pod) || !overdue(pod, now) && !cutOff(pod) {
		return node{}, nil
	}
	var n corev1.Node
	err := r.Live.Get(ctx, client.ObjectKey{Name: pod.Spec.NodeName}, &n)
	switch {
	case apierrors.IsNotFound(err):
		return node{state: nodeLost}, nil
	case apierrors.IsForbidden(err):
		return node{state: nodeUnknown}, nil
	case err != nil:
		return node{}, err
	}
	return judgeNode(&n), nil
}

// judgeNode goes by the rules by which Kubernetes gives up the pods of a node: it has to
// be out of service by somebody's word, and not ready either.
func judgeNode(n *corev1.Node) node {
	why := "no status"
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		if c.Status == corev1.ConditionTrue {
			return node{state: nodeReady}
		}
		why = c.Reason
	}
	if slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService }) {
		return node{state: nodeLost}
	}
	return node{state: nodeUnreachable, why: why}
}

// over is podOver with what is known of the pod's node. A pod on a lost node has
// the time nevertheless that it had to end: the node may be gone from the API only.
func (o *observed) over(pod *corev1.Pod) (over bool, again time.Duration) {
	over, again = podOver(pod, o.now)
	switch {
	case over || again > 0 || pod.DeletionTimestamp.IsZero():
		return over, again
	case !overdue(pod, o.now):
		return false, pod.DeletionTimestamp.Add(overdueMargin).Sub(o.now)
	}
	return o.node.state == nodeLost, nodeDelay
}

// unheard finds a pod that isn't over, as far as anybody knows, and won't be by
// itself. As long as its server may write, nothing may take its place.
func unheard(o *observed) (finding, bool) {
	if o.node.state == nodeUnasked {
		return finding{}, false
	}
	name := o.pod.Spec.NodeName
	const off = "if it is certain that it is powered off, delete the Node, taint it with node.kubernetes.io/out-of-service, or delete the pod by force"
	switch {
	case o.node.state == nodeUnreachable && o.pod.DeletionTimestamp.IsZero():
		return found(v1alpha1.ReasonNodeUnreachable, "the node %s of the pod %s isn't ready (%s), and whether its server runs isn't known: bring the node back; %s, and a new pod follows", name, o.pod.Name, o.node.why, off)
	case o.node.state == nodeUnreachable:
		return found(v1alpha1.ReasonNodeUnreachable, "the pod %s was told to end, but its node %s isn't ready (%s), and as long as its server may still write nothing takes its place: bring the node back; %s", o.pod.Name, name, o.node.why, off)
	case o.node.state == nodeReady && overdue(o.pod, o.now):
		return found(v1alpha1.ReasonPodOverdue, "the pod %s had to end by %s and is still there, although its node %s is ready: look into the log of the kubelet there for what can't be killed or unmounted", o.pod.Name, latest(o.pod), name)
	case o.node.state == nodeUnknown && overdue(o.pod, o.now):
		return found(v1alpha1.ReasonPodOverdue, "the pod %s had to end by %s and is still there: see whether its node %s is ready, and bring it back; %s", o.pod.Name, latest(o.pod), name, off)
	}
	return finding{}, false
}

// latest is when the processes of a pod that was told to end are killed.
func latest(pod *corev1.Pod) string {
	return pod.DeletionTimestamp.UTC().Format(time.RFC3339)
}

// disruption says in brackets what Kubernetes has noted about the end of a pod, such as
// an eviction.
func disruption(pod *corev1.Pod) string {
	c := podCondition(pod, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue {
		return ""
	}
	return fmt.Sprintf(" (%s: %s)", c.Reason, brief(c.Message))
}
