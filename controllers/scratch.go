package controllers

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
	"github.com/nbdexport/nbdexport/nbdserver/report"
)

// mostDelay is how long at most a server that can't start waits for its next pod.
const mostDelay = 5 * time.Minute

// scratchLost ends an export with a CopyOnWrite volume whose server has ended
// without an exit condition and may have served somebody: with another server a
// client would find the volume turned back, without a word, under a file system that
// it has mounted.
func scratchLost(o *observed) (plan, bool) {
	if !desired.CopiesOnWrite(o.export) {
		return plan{}, false
	}
	pod := o.podToEnd()
	if pod == nil {
		if !everReady(o.export) {
			return plan{}, false
		}
		return endWithScratch(o, v1alpha1.ExitStatus{}, o.now, "the export's pod is gone"), true
	}
	if over, _ := o.over(pod); !over || !mayHaveServed(o, pod) {
		return plan{}, false
	}
	var exit v1alpha1.ExitStatus
	if r, _, ok := lastReport(pod); ok {
		if _, met := exitOf(o.export, pod, r); met {
			return plan{}, false
		}
		started := metav1.NewTime(r.StartedAt)
		exit.StartedAt, exit.BytesRead, exit.BytesWritten = &started, count(r.BytesRead), count(r.BytesWritten)
	}
	return endWithScratch(o, exit, endedAt(pod, o.now), fmt.Sprintf("the pod %s has ended without an exit condition%s", pod.Name, o.why(pod))), true
}

// mayHaveServed tells whether it isn't certain that nobody was served by an export's pod
// or one before it. Clients can connect before the pod is ready, too.
func mayHaveServed(o *observed, pod *corev1.Pod) bool {
	return everReady(o.export) || !neverServed(pod) && !rejected(pod)
}

// rejected tells whether nothing is known of a pod's server. That is how a kubelet leaves
// a pod which it doesn't start; of one that ran it has more to say.
func rejected(pod *corev1.Pod) bool {
	return len(pod.Status.ContainerStatuses) == 0 && podCondition(pod, corev1.PodReady) == nil
}

// endWithScratch writes down the end of an export whose scratch is lost. It never
// counts as clean: clients may have gone in peace, but they can't come back.
func endWithScratch(o *observed, exit v1alpha1.ExitStatus, at time.Time, what string) plan {
	finishedAt, clean := metav1.NewTime(at), false
	exit.Condition, exit.Reason = v1alpha1.ExitScratchLost, v1alpha1.ExitScratchLost
	exit.FinishedAt, exit.Clean = &finishedAt, &clean
	return plan{exit: &exit, served: true, say: ended(true, v1alpha1.ReasonScratchLost, what+
		", and with it all that clients have changed of CopyOnWrite volumes, so that no other may take its place: create the export anew, and start its clients anew from the unchanged volumes")}
}

// toldToEnd says what becomes of an export whose pod somebody else has told to end.
func toldToEnd(o *observed, pod *corev1.Pod) []verdict {
	if desired.CopiesOnWrite(o.export) && mayHaveServed(o, pod) {
		return underWay(v1alpha1.ReasonDraining, fmt.Sprintf(
			"the pod %s was told to end%s: the export ends when it has drained, by %s at the latest, for what clients have changed of CopyOnWrite volumes ends with it",
			pod.Name, disruption(pod), latest(pod)))
	}
	return underWay(v1alpha1.ReasonReplacing, fmt.Sprintf(
		"the pod %s was told to end%s: a new one follows when it has drained, by %s at the latest", pod.Name, disruption(pod), latest(pod)))
}

// cannotStart finds a server that ended before it could serve, and which the kubelet
// doesn't start again as it does where nothing is CopyOnWrite.
func cannotStart(o *observed, pod *corev1.Pod) (finding, bool) {
	s := serverStatus(pod)
	if !desired.CopiesOnWrite(o.export) || s == nil || s.State.Terminated == nil || s.State.Terminated.ExitCode != report.ExitStartup {
		return finding{}, false
	}
	return found(v1alpha1.ReasonServerFailed, "the server ended with exit code %d and is started again in a new pod: %s", report.ExitStartup, failure(s.State.Terminated))
}

// delay is how long after the end of a pod a new one is made. One whose server
// couldn't start comes later the longer this goes on, as the kubelet has it with
// containers: after a quarter of the export's age.
func delay(o *observed, pod *corev1.Pod) time.Duration {
	if _, found := cannotStart(o, pod); !found {
		return replaceDelay
	}
	age := endedAt(pod, o.now).Sub(o.export.CreationTimestamp.Time)
	return max(replaceDelay, min(age/4, mostDelay))
}
