package controllers

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// item is an Event to be: something has changed that people want to know.
type item struct {
	kind, reason, action, note string
}

// news are the changes from one status to the next that are worth an Event.
func news(from, to v1alpha1.NBDExportStatus) []item {
	var out []item
	was := func(kind string) metav1.Condition { return conditionOf(from, kind) }
	is := func(kind string) metav1.Condition { return conditionOf(to, kind) }

	if from.Exit == nil && to.Exit != nil && to.Exit.Reason != v1alpha1.ExitScratchLost {
		out = append(out, item{corev1.EventTypeNormal, v1alpha1.EventExitConditionMet, "Drain",
			fmt.Sprintf("the exit condition %s (%s) was met", to.Exit.Condition, to.Exit.Reason)})
	}
	if c := is(v1alpha1.ConditionComplete); c.Status == metav1.ConditionTrue && was(c.Type).Status != c.Status {
		kind := corev1.EventTypeNormal
		if is(v1alpha1.ConditionFailed).Status == metav1.ConditionTrue || c.Reason == v1alpha1.ReasonReportLost {
			kind = corev1.EventTypeWarning
		}
		return append(out, item{kind, c.Reason, "Complete", bounded(c.Message)})
	}
	switch c, p := is(v1alpha1.ConditionReady), is(v1alpha1.ConditionProgressing); {
	case c.Reason == was(c.Type).Reason && c.Status == was(c.Type).Status:
	case c.Status == metav1.ConditionTrue:
		out = append(out, item{corev1.EventTypeNormal, c.Reason, "Serve", bounded(c.Message)})
	case p.Status == metav1.ConditionFalse:
		out = append(out, item{corev1.EventTypeWarning, c.Reason, "Serve", bounded(c.Message)})
	}
	return out
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
		return note[:1000]
	}
	return note
}
