package controllers

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// deadlineOver looks whether a deadline has come that no server notices: there is
// none yet, it can't start, or it is on its way out for another reason and a new
// one would follow. A server that runs ends by itself and keeps its pod, with
// its log.
func deadlineOver(o *observed) (v1alpha1.ExitStatus, bool) {
	name, at, set := nextDeadline(o.export)
	if !set || at.After(o.now) || serverRuns(o.ownPod()) {
		return v1alpha1.ExitStatus{}, false
	}
	started := metav1.NewTime(o.now)
	return v1alpha1.ExitStatus{Condition: name, Reason: v1alpha1.ExitDeadline, StartedAt: &started}, true
}

// nextDeadline is the first of an export's deadlines to come, with its name in
// exitWhen; false if there is none.
func nextDeadline(e *v1alpha1.NBDExport) (name string, at time.Time, set bool) {
	for _, c := range e.Spec.ExitWhen {
		if c.Deadline == nil {
			continue
		}
		if t := c.Deadline.At(e.CreationTimestamp.Time); !set || t.Before(at) {
			name, at, set = c.Name, t, true
		}
	}
	return name, at, set
}

// serverRuns tells whether a server is there that watches its conditions. The pod
// may be nil.
func serverRuns(pod *corev1.Pod) bool {
	if pod == nil || !pod.DeletionTimestamp.IsZero() || finished(pod) {
		return false
	}
	s := serverStatus(pod)
	return s != nil && s.State.Running != nil
}

// untilDeadline has a plan made again when the deadline comes.
func (p *plan) untilDeadline(o *observed) {
	if _, at, set := nextDeadline(o.export); set && at.After(o.now) {
		p.lookAgainIn(at.Sub(o.now))
	}
}

// lookAgainIn has a plan made again in a while, if not sooner.
func (p *plan) lookAgainIn(d time.Duration) {
	if p.again == 0 || p.again > d {
		p.again = d
	}
}
