package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// refusedDelay is when an object is tried again that the API server has refused.
const refusedDelay = 30 * time.Second

// apply does what a plan says. Every part is tried; what the API server refuses
// for a reason that lies with the export becomes a part of what the plan says.
func (r *Reconciler) apply(ctx context.Context, o *observed, p *plan) error {
	var errs []error
	if p.applyService {
		errs = append(errs, r.applyService(ctx, o, p))
	}
	if p.applyConfigMap {
		errs = append(errs, r.applyConfigMap(ctx, o, p))
	}
	if p.applyNetworkPolicy {
		errs = append(errs, r.applyNetworkPolicy(ctx, o, p))
	}
	if p.removeNetworkPolicy {
		errs = append(errs, r.removeNetworkPolicy(ctx, o.networkPolicy))
	}
	if p.certify {
		errs = append(errs, r.certify(ctx, o, p))
	}
	switch p.pod {
	case podCreate:
		errs = append(errs, r.createPod(ctx, o, p))
	case podRemove:
		errs = append(errs, r.removePod(ctx, o.pod))
	}
	if p.releasePod {
		errs = append(errs, r.releasePod(ctx, o.pod))
	}
	if len(p.makeClaims) > 0 {
		errs = append(errs, r.makeTemporary(ctx, p))
	}
	for _, claim := range p.removeClaims {
		errs = append(errs, r.removeClaim(ctx, claim))
	}
	if p.stampPod {
		errs = append(errs, r.stampPod(ctx, o.export, o.pod))
	}
	if p.removeExport {
		errs = append(errs, r.removeExport(ctx, o.export))
	}
	return errors.Join(errs...)
}

// applyService makes the Service or corrects it.
func (r *Reconciler) applyService(ctx context.Context, o *observed, p *plan) error {
	service := desired.Service(o.export)
	err := r.applyOwn(ctx, service, o.service != nil)
	switch {
	case err == nil:
		o.trust.addresses = service.Spec.ClusterIPs
	case o.service == nil:
		p.unreachable()
	}
	return p.needed("the Service", err)
}

// applyConfigMap makes the ConfigMap with the limits or corrects it.
func (r *Reconciler) applyConfigMap(ctx context.Context, o *observed, p *plan) error {
	return p.needed("the ConfigMap", r.applyOwn(ctx, desired.ConfigMap(o.export), o.configMap != nil))
}

// applyOwn applies what is the export's own or doesn't exist. What is there may be
// forced. What isn't mustn't: if somebody else has made one of this name in between,
// that one differs, and the conflict leaves it alone.
func (r *Reconciler) applyOwn(ctx context.Context, obj runtime.ApplyConfiguration, there bool) error {
	opts := []client.ApplyOption{client.FieldOwner(v1alpha1.FieldOwner)}
	if there {
		opts = append(opts, client.ForceOwnership)
	}
	return r.Apply(ctx, obj, opts...)
}

// createPod makes the pod.
func (r *Reconciler) createPod(ctx context.Context, o *observed, p *plan) error {
	if len(claimNames(o.export)) > 0 {
		// One at a time: of two exports made at once, the second has to find the
		// pod of the first.
		r.making.Lock()
		defer r.making.Unlock()
		f, found, err := r.lookAgain(ctx, o)
		if err != nil {
			p.notMade()
			return err
		}
		if found {
			p.notMade()
			p.say = append(p.say, blocked(f)...)
			return nil
		}
	}
	// The export must not vanish while its pod runs.
	err := r.hold(ctx, o.export)
	if err == nil {
		facts := o.follow()
		facts.Image = r.Image
		var pod *corev1ac.PodApplyConfiguration
		if pod, err = desired.Pod(o.export, facts); err != nil {
			err = apierrors.NewBadRequest(err.Error())
		} else {
			err = r.applyOwn(ctx, pod, false)
		}
	}
	if err != nil {
		p.notMade()
	}
	return p.refused("the pod", err)
}

// notMade takes back what a plan says about the pod that it makes, if it makes one. The
// text is always the same: one with the error in it might be another one at each try,
// and each new status has the export looked at again.
func (p *plan) notMade() {
	if p.pod != podCreate {
		return
	}
	p.pod, p.named = podKeep, false
	for i := range p.say {
		if p.say[i].reason == v1alpha1.ReasonStarting {
			p.say[i].message = "the API server hasn't taken the pod yet: this is tried again, and the operator's log says what the trouble is"
		}
	}
}

// refused puts it into the plan when the API server refuses an object, and asks
// for another try: nobody tells when a quota is free or a policy has changed. Any
// other error is returned. A namespace that is being deleted takes nothing new,
// and soon deletes the export: that is no trouble to report.
func (p *plan) refused(what string, err error) error {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err) {
		p.say = append(p.say, blocked(finding{v1alpha1.ReasonPodRejected,
			fmt.Sprintf("the API server refuses %s: %s", what, brief(err.Error()))})...)
		p.lookAgainIn(refusedDelay)
		return nil
	}
	return err
}

// unreachable takes back that clients can connect, where the Service is missing and
// couldn't be made.
func (p *plan) unreachable() {
	if slices.ContainsFunc(p.say, func(v verdict) bool { return v.kind == v1alpha1.ConditionReady && v.is }) {
		p.say = append(p.say, blocked(finding{v1alpha1.ReasonServiceMissing,
			"the Service is gone, and the API server hasn't taken a new one yet: this is tried again, and the operator's log says what the trouble is"})...)
	}
}

// needed is refused for what the pod needs: as long as it isn't there, none is made.
func (p *plan) needed(what string, err error) error {
	if err != nil {
		p.notMade()
	}
	return p.refused(what, err)
}

// hold puts the finalizer on the export.
func (r *Reconciler) hold(ctx context.Context, e *v1alpha1.NBDExport) error {
	base := e.DeepCopy()
	if !controllerutil.AddFinalizer(e, v1alpha1.FinalizerDrain) {
		return nil
	}
	return r.Patch(ctx, e, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
}

// removeExport deletes the export as it was read, which then goes the way of every
// deleted one.
func (r *Reconciler) removeExport(ctx context.Context, e *v1alpha1.NBDExport) error {
	return client.IgnoreNotFound(r.Delete(ctx, e, client.Preconditions{UID: &e.UID, ResourceVersion: &e.ResourceVersion}))
}

// releaseExport takes the finalizer off the export.
func (r *Reconciler) releaseExport(ctx context.Context, e *v1alpha1.NBDExport) error {
	base := e.DeepCopy()
	if !controllerutil.RemoveFinalizer(e, v1alpha1.FinalizerDrain) {
		return nil
	}
	err := r.Patch(ctx, e, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
	return client.IgnoreNotFound(err)
}

// removePod deletes a pod with its grace period, as it was read: no other that has
// its name by now, and none whose server has started in between.
func (r *Reconciler) removePod(ctx context.Context, pod *corev1.Pod) error {
	return client.IgnoreNotFound(r.Delete(ctx, pod, client.Preconditions{UID: &pod.UID, ResourceVersion: &pod.ResourceVersion}))
}

// releasePod takes the finalizer off a pod.
func (r *Reconciler) releasePod(ctx context.Context, pod *corev1.Pod) error {
	changed := pod.DeepCopy()
	if !controllerutil.RemoveFinalizer(changed, v1alpha1.FinalizerReport) {
		return nil
	}
	err := r.Patch(ctx, changed, client.MergeFromWithOptions(pod, client.MergeFromWithOptimisticLock{}))
	if err == nil {
		r.Metrics.drained(pod)
	}
	return client.IgnoreNotFound(err)
}
