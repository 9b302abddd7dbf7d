package controllers

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
	"github.com/nbdexport/nbdexport/nbdserver/report"
)

// lastReport reads the server's final report from its termination message, and
// how its container ended: nil if it hasn't. A container that was started again
// after its report repeats it, so that an earlier one is as good.
func lastReport(pod *corev1.Pod) (r report.Report, t *corev1.ContainerStateTerminated, ok bool) {
	s := serverStatus(pod)
	if s == nil {
		return r, nil, false
	}
	for _, t := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
		if t == nil {
			continue
		}
		if r, err := report.Parse([]byte(t.Message)); err == nil {
			return r, t, true
		}
	}
	return r, s.State.Terminated, false
}

// reportedEnd tells whether the server has left its final report. What it served
// is flushed and closed by then, even if other containers take longer to end, or
// its own is started once more to repeat the report.
func reportedEnd(pod *corev1.Pod) bool {
	_, _, ok := lastReport(pod)
	return ok
}

// exitOf turns the condition in the report of a pod's server into one of the export.
// It is false for a signal: whoever sent it, the export hasn't ended by itself. And
// for a condition that has been taken out of the spec since the pod was made: what
// counts is the spec at the time at which the report is read.
func exitOf(e *v1alpha1.NBDExport, pod *corev1.Pod, r report.Report) (v1alpha1.ExitStatus, bool) {
	started := metav1.NewTime(r.StartedAt)
	exit := v1alpha1.ExitStatus{StartedAt: &started}
	switch {
	case strings.HasPrefix(r.Condition, "signal="):
		return v1alpha1.ExitStatus{}, false
	case r.Condition == "control=drain":
		exit.Reason = v1alpha1.ExitDrainRequested
	default:
		exit.Reason = v1alpha1.ExitOther
		for _, c := range e.Spec.ExitWhen {
			if flag, arg, ok := desired.ExitFlag(e, c); ok && report.Brief(flag+"="+arg) == r.Condition {
				exit.Condition, exit.Reason = c.Name, exitReason(c)
				break
			}
		}
	}
	if exit.Reason == v1alpha1.ExitOther && slices.Contains(outdated(e, pod), "exitWhen") {
		return v1alpha1.ExitStatus{}, false
	}
	if exit.Condition == "" {
		exit.Condition = exit.Reason
	}
	return exit, true
}

// exitReason is the kind of a condition.
func exitReason(c v1alpha1.ExitCondition) string {
	switch {
	case c.PodDeleted != nil:
		return v1alpha1.ExitPodDeleted
	case c.FileCreated != nil:
		return v1alpha1.ExitFileCreated
	case c.FileDeleted != nil:
		return v1alpha1.ExitFileDeleted
	case c.PipeClosed != nil:
		return v1alpha1.ExitPipeClosed
	case c.ProcessExited != nil:
		return v1alpha1.ExitProcessExited
	case c.Script != nil:
		return v1alpha1.ExitScript
	case c.LastClientLeft != nil:
		return v1alpha1.ExitLastClientLeft
	case c.Idle != nil:
		return v1alpha1.ExitIdle
	case c.Deadline != nil:
		return v1alpha1.ExitDeadline
	case c.ObjectCondition != nil:
		return v1alpha1.ExitObjectCondition
	}
	return v1alpha1.ExitOther
}

// finish writes down the end of an export whose pod is over or has reported.
func finish(o *observed, exit v1alpha1.ExitStatus, pod *corev1.Pod) plan {
	r, t, ok := lastReport(pod)
	switch {
	case !ok && neverServed(pod) && !everReady(o.export):
		return neverCame(o, exit, pod, t)
	case !ok:
		return finishUnreported(o, exit, t)
	}
	if own, met := exitOf(o.export, pod, r); met {
		// The server had begun to drain before it was told to.
		exit = own
	}
	at, clean := metav1.NewTime(r.FinishedAt), r.Clean()
	exit.FinishedAt, exit.Clean = &at, &clean
	exit.BytesRead, exit.BytesWritten = count(r.BytesRead), count(r.BytesWritten)
	met := fmt.Sprintf("the exit condition %s (%s) was met", exit.Condition, exit.Reason)
	var say []verdict
	switch outcome(r) {
	case v1alpha1.ReasonDrained:
		say = ended(false, v1alpha1.ReasonDrained, met+": the server has drained and ended, nothing was cut short")
	case v1alpha1.ReasonFlushFailed:
		say = ended(true, v1alpha1.ReasonFlushFailed, met+": what clients have written may not be on stable storage: "+brief(r.Error))
	case v1alpha1.ReasonClientsCutOff:
		say = ended(true, v1alpha1.ReasonClientsCutOff, fmt.Sprintf("%s: %d clients were still connected at the drain's timeout and were cut off", met, r.ClientsCut))
	default:
		say = ended(true, v1alpha1.ReasonServerFailed, fmt.Sprintf("%s: the server ended with exit code %d: %s", met, r.ExitCode, brief(r.Error)))
	}
	return plan{exit: &exit, say: say, served: true}
}

// finishUnreported writes down the end of an export whose server left no
// report.
func finishUnreported(o *observed, exit v1alpha1.ExitStatus, t *corev1.ContainerStateTerminated) plan {
	if unreported(t) == v1alpha1.ReasonReportLost {
		return reportLost(o, exit)
	}
	at, clean := t.FinishedAt, false
	exit.FinishedAt, exit.Clean = &at, &clean
	return plan{exit: &exit, served: true, say: ended(true, v1alpha1.ReasonServerKilled, fmt.Sprintf(
		"the exit condition %s (%s) was met, but the server ended without a report, with exit code %d (%s): %s",
		exit.Condition, exit.Reason, t.ExitCode, t.Reason, brief(t.Message)))}
}

// reportLost writes down an end of which only the fact is known.
func reportLost(o *observed, exit v1alpha1.ExitStatus) plan {
	now := metav1.NewTime(o.now)
	exit.FinishedAt = &now
	return plan{exit: &exit, served: true, say: ended(false, v1alpha1.ReasonReportLost, fmt.Sprintf(
		"the exit condition %s (%s) was met, but the pod left no report: whether the end was clean isn't known", exit.Condition, exit.Reason))}
}

// neverStarted writes down the end of an export that has no pod to end.
func neverStarted(o *observed, exit v1alpha1.ExitStatus) plan {
	return nothingServed(exit, o.now, "no pod was made")
}

// neverCame writes down the end of an export whose pod never came to serve.
func neverCame(o *observed, exit v1alpha1.ExitStatus, pod *corev1.Pod, t *corev1.ContainerStateTerminated) plan {
	at, why := o.now, fmt.Sprintf("the server in the pod %s never ran", pod.Name)
	if t != nil && startupFailed(t) {
		at, why = t.FinishedAt.Time, fmt.Sprintf("the server in the pod %s never started without an error, last: %s", pod.Name, failure(t))
	}
	p := nothingServed(exit, at, why)
	p.served = true
	return p
}

// everReady tells whether an export has been ready, maybe with an earlier pod.
func everReady(e *v1alpha1.NBDExport) bool { return e.GetStatus().FirstReadyAt != nil }

// nothingServed writes down the end of an export that no client has used.
func nothingServed(exit v1alpha1.ExitStatus, at time.Time, why string) plan {
	finishedAt, clean, none := metav1.NewTime(at), true, int64(0)
	exit.FinishedAt, exit.Clean, exit.BytesRead, exit.BytesWritten = &finishedAt, &clean, &none, &none
	return plan{exit: &exit, say: ended(false, v1alpha1.ReasonNeverStarted, fmt.Sprintf(
		"the exit condition %s (%s) was met when nothing was served: %s", exit.Condition, exit.Reason, why))}
}

// count is a count of bytes as the API has it.
func count(n uint64) *int64 {
	c := int64(min(n, math.MaxInt64))
	return &c
}
