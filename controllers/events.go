package controllers

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// item is an Event to be: something has changed that people want to know.
type item struct {
	kind, reason, action, note string
}

const (
	// tellAgain is how long the same Event isn't told again of an export, whatever
	// happens in between: a pod that comes and goes isn't news each time. It is how
	// long the API server keeps one.
	tellAgain = time.Hour
	// maxTold is how many Events are remembered for that.
	maxTold = 4096
)

// untold leaves of the news about an export those that weren't told within the last
// hour.
func (r *Reconciler) untold(e *v1alpha1.NBDExport, all []item) []item {
	type told struct {
		export         types.UID
		reason, action string
	}
	var out []item
	for _, n := range all {
		key := told{e.UID, n.reason, n.action}
		if _, known := r.told.Get(key); !known {
			r.told.Add(key, nil, tellAgain)
			out = append(out, n)
		}
	}
	return out
}

// news are the changes from one status to the next that are worth an Event.
func news(from, to v1alpha1.NBDExportStatus) []item {
	var out []item
	was := func(kind string) metav1.Condition { return conditionOf(from, kind) }
	is := func(kind string) metav1.Condition { return conditionOf(to, kind) }

	if from.Exit == nil && to.Exit != nil && to.Exit.Reason != v1alpha1.ExitScratchLost {
		out = append(out, item{corev1.EventTypeNormal, v1alpha1.EventExitConditionMet, "Drain", exitNote(*to.Exit)})
	}
	// Only what was never degraded before lacks the condition.
	if c := is(v1alpha1.ConditionDegraded); c.Status == metav1.ConditionTrue && was(c.Type).Status == "" {
		out = append(out, item{corev1.EventTypeWarning, c.Reason, "Serve", bounded(c.Message)})
	}
	if c := is(v1alpha1.ConditionComplete); c.Status == metav1.ConditionTrue && was(c.Type).Status != c.Status {
		kind := corev1.EventTypeNormal
		if is(v1alpha1.ConditionFailed).Status == metav1.ConditionTrue || c.Reason == v1alpha1.ReasonReportLost {
			kind = corev1.EventTypeWarning
		}
		return append(out, item{kind, c.Reason, "Complete", bounded(c.Message)})
	}
	switch c, p := is(v1alpha1.ConditionReady), is(v1alpha1.ConditionProgressing); {
	case from.FirstReadyAt == nil && to.FirstReadyAt != nil:
		out = append(out, item{corev1.EventTypeNormal, c.Reason, "Serve", bounded(c.Message)})
	case c.Reason == was(c.Type).Reason || c.Status == metav1.ConditionTrue:
	case p.Status == metav1.ConditionFalse:
		out = append(out, item{corev1.EventTypeWarning, c.Reason, "Serve", bounded(c.Message)})
	}
	return out
}

// exitNote says which exit condition was met, and when.
func exitNote(x v1alpha1.ExitStatus) string {
	note := fmt.Sprintf("the exit condition %s (%s) was met", x.Condition, x.Reason)
	if x.StartedAt != nil {
		note += " at " + x.StartedAt.UTC().Format(time.RFC3339)
	}
	return note
}

func conditionOf(s v1alpha1.NBDExportStatus, kind string) metav1.Condition {
	if c := meta.FindStatusCondition(s.Conditions, kind); c != nil {
		return *c
	}
	return metav1.Condition{Type: kind}
}

// bounded cuts a note to what the API server takes, 1 KiB.
func bounded(note string) string {
	if len(note) > 1000 {
		return strings.ToValidUTF8(note[:1000], "")
	}
	return note
}
