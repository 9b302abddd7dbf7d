package controllers

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
	"github.com/nbdexport/nbdexport/nbdserver/report"
)

// finished tells whether all containers of a pod have ended for good.
func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// podOver tells whether no process of a pod runs any more or ever will: only
// then may another pod have its volumes. Where that is a matter of time, it tells
// how long.
//
// A pod that was deleted by force has to be believed gone at some time, since the
// node that could say so may not exist any more. It gets the time that its
// processes had to end, and as much longer as one on a lost node.
func podOver(pod *corev1.Pod, now time.Time) (over bool, again time.Duration) {
	if finished(pod) {
		return true, 0
	}
	if pod.DeletionTimestamp.IsZero() {
		return false, 0
	}
	if pod.Spec.NodeName == "" {
		return true, 0
	}
	if g := pod.DeletionGracePeriodSeconds; g == nil || *g != 0 {
		return false, 0
	}
	if wait := pod.DeletionTimestamp.Add(time.Duration(terminationGrace(pod))*time.Second + overdueMargin).Sub(now); wait > 0 {
		return false, wait
	}
	return true, 0
}

// terminationGrace is how long the processes of a pod have to end, in seconds.
func terminationGrace(pod *corev1.Pod) int64 {
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return *g
	}
	return corev1.DefaultTerminationGracePeriodSeconds
}

// endedAt is when the server of a finished pod ended, or now if nobody knows.
// An eviction leaves no container states.
func endedAt(pod *corev1.Pod, now time.Time) time.Time {
	if s := serverStatus(pod); s != nil && s.State.Terminated != nil && !s.State.Terminated.FinishedAt.IsZero() {
		return s.State.Terminated.FinishedAt.Time
	}
	var last time.Time
	for _, c := range pod.Status.Conditions {
		if c.LastTransitionTime.After(last) {
			last = c.LastTransitionTime.Time
		}
	}
	if last.IsZero() {
		return pod.CreationTimestamp.Time
	}
	return last
}

// why says in brackets how a pod ended: what its server reports that wasn't clean,
// or what Kubernetes says about it.
func (o *observed) why(pod *corev1.Pod) string {
	if o.node.state == nodeLost {
		return fmt.Sprintf(" (its node %s is gone or out of service)", pod.Spec.NodeName)
	}
	if r, _, ok := lastReport(pod); ok && !r.Clean() {
		return fmt.Sprintf(" (its server ended with exit code %d, %d clients cut off: %s)", r.ExitCode, r.ClientsCut, brief(r.Error))
	}
	if pod.Status.Reason != "" {
		return fmt.Sprintf(" (%s)", strings.TrimSuffix(pod.Status.Reason+": "+brief(pod.Status.Message), ": "))
	}
	if d := disruption(pod); d != "" {
		return d
	}
	if s := serverStatus(pod); s != nil && s.State.Terminated != nil && s.State.Terminated.ExitCode != 0 {
		return fmt.Sprintf(" (its server ended with exit code %d: %s)", s.State.Terminated.ExitCode, failure(s.State.Terminated))
	}
	return ""
}

// serverStatus is the status of the server's container; nil before there is any.
func serverStatus(pod *corev1.Pod) *corev1.ContainerStatus {
	for i := range pod.Status.ContainerStatuses {
		if pod.Status.ContainerStatuses[i].Name == desired.ServerContainer {
			return &pod.Status.ContainerStatuses[i]
		}
	}
	return nil
}

// podCondition is a condition of a pod; nil if it isn't there.
func podCondition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// pinnedTo is the node that an export's pod was made for; empty if any will do.
func pinnedTo(pod *corev1.Pod) string {
	return pod.Annotations[v1alpha1.AnnotationNode]
}

// brief is the end of a text in one line of bounded length. The end, because the
// last line of a log says most about a failure.
func brief(s string) string {
	const most = 500
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= most {
		return s
	}
	return "..." + strings.ToValidUTF8(s[len(s)-most:], "")
}

// serverRan tells whether the server's container has run at any time.
func serverRan(pod *corev1.Pod) bool {
	s := serverStatus(pod)
	return s != nil && (s.State.Waiting == nil && s.State != (corev1.ContainerState{}) ||
		s.LastTerminationState.Terminated != nil || s.RestartCount > 0)
}

// neverServed tells whether it is certain that no client was served by a pod that
// is over and has left no report. Runs before the last two have left nothing but
// the condition Ready, which is false from the start of a pod, and whose time
// changes with the first run that becomes ready.
func neverServed(pod *corev1.Pod) bool {
	if pod.Spec.NodeName == "" {
		return true
	}
	c := podCondition(pod, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionFalse || pod.Status.StartTime == nil ||
		c.LastTransitionTime.Sub(pod.Status.StartTime.Time) > time.Second {
		return false
	}
	s := serverStatus(pod)
	if s == nil || s.State.Running != nil {
		return s == nil
	}
	for _, t := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
		if t != nil && !startupFailed(t) && !neverRan(s) {
			return false
		}
	}
	return true
}

// startupFailed tells whether a server has ended before it served anybody.
func startupFailed(t *corev1.ContainerStateTerminated) bool {
	return t.ExitCode == report.ExitStartup || t.ExitCode == report.ExitDeviceDenied
}

// neverRan tells whether a container never ran although the kubelet has it as
// terminated: what was still waiting at the end of its pod, it gives an end with an
// unknown status. One that was lost while it ran counts as restarted, or
// has that end as its last one.
func neverRan(s *corev1.ContainerStatus) bool {
	t := s.State.Terminated
	return t != nil && t.Reason == statusUnknown && t.StartedAt.IsZero() && t.ContainerID == "" &&
		s.LastTerminationState.Terminated == nil && s.RestartCount == 0
}

// statusUnknown is the kubelet's reason for an end that it knows nothing about.
const statusUnknown = "ContainerStatusUnknown"
