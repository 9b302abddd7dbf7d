package controllers

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// writeStatus writes what a plan says, if it differs from what is there. An
// export that has changed since it was read is left for the next reconciliation:
// what is on record about its end must not be overwritten from an old copy.
func (r *Reconciler) writeStatus(ctx context.Context, e *v1alpha1.NBDExport, p plan) error {
	base := e.DeepCopy()
	was, is := base.GetStatus(), statusOf(e, p)
	if equality.Semantic.DeepEqual(was, is) {
		return nil
	}
	key := client.ObjectKeyFromObject(e)
	if r.refusals.tooSoon(key, was, is, r.Clock.Now()) {
		return nil
	}
	e.Status = &is
	err := r.Status().Patch(ctx, e, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	r.refusals.written(key, is, r.Clock.Now())
	r.Metrics.count(e, was)
	for _, n := range r.untold(e, news(was, is)) {
		r.Recorder.Eventf(e, nil, n.kind, n.reason, n.action, "%s", n.note)
	}
	return nil
}

// lastOfEach leaves the last verdict on each condition. One that is overruled must
// not be set even for a moment: it would move the time of the last transition.
func lastOfEach(say []verdict) []verdict {
	var out []verdict
	for i, v := range say {
		overruled := slices.ContainsFunc(say[i+1:], func(later verdict) bool { return later.kind == v.kind })
		if !overruled {
			out = append(out, v)
		}
	}
	return out
}

// statusOf is the status of an export after a plan.
func statusOf(e *v1alpha1.NBDExport, p plan) v1alpha1.NBDExportStatus {
	was := e.GetStatus()
	s := *was.DeepCopy()
	if p.exit != nil {
		s.Exit = p.exit
	}
	if p.watched != nil {
		s.WatchedPods = p.watched
	}
	if p.heard {
		s.Connections = p.connections
	}
	if p.served {
		s.ServiceName = ptr.To(desired.ChildName(e.Name))
		s.ClientSecretName = nil
		if e.Spec.TLS.Issued() {
			s.ClientSecretName = ptr.To(desired.ClientCredential(e).Name())
		}
		s.URI = ptr.To(desired.URI(e, e.Spec.Volumes[0].Name))
		s.Volumes = nil
		for _, v := range e.Spec.Volumes {
			s.Volumes = append(s.Volumes, v1alpha1.VolumeStatus{Name: v.Name, URI: desired.URI(e, v.Name)})
		}
	}
	if p.named {
		s.PodName = ptr.To(desired.ChildName(e.Name))
	}
	for _, v := range lastOfEach(p.say) {
		status := metav1.ConditionFalse
		if v.is {
			status = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{
			Type:               v.kind,
			Status:             status,
			Reason:             v.reason,
			Message:            v.message,
			ObservedGeneration: e.Generation,
		})
	}
	if c := conditionOf(s, v1alpha1.ConditionReady); c.Status == metav1.ConditionTrue && s.FirstReadyAt == nil {
		s.FirstReadyAt = &c.LastTransitionTime
	}
	s.ObservedGeneration = ptr.To(e.Generation)
	return s
}
