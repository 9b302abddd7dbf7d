package controllers

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// networkPolicyOf reads the NetworkPolicy of an export. For one that has none, only
// its own is looked for, in the cache: one that it had before.
func (r *Reconciler) networkPolicyOf(ctx context.Context, e *v1alpha1.NBDExport) (*networkingv1.NetworkPolicy, error) {
	name := desired.ChildName(e.Name)
	if e.Spec.NetworkPolicy.GetMode() != v1alpha1.NetworkPolicyNone {
		return find[networkingv1.NetworkPolicy](ctx, r, e.Namespace, name)
	}
	var p networkingv1.NetworkPolicy
	err := r.Get(ctx, client.ObjectKey{Namespace: e.Namespace, Name: name}, &p)
	if err != nil || !owned(e, &p) {
		return nil, client.IgnoreNotFound(err)
	}
	return &p, nil
}

// networkPolicyDiffers tells whether the NetworkPolicy has to be applied, or removed.
func networkPolicyDiffers(o *observed) (apply, remove bool) {
	if o.export.Spec.NetworkPolicy.GetMode() == v1alpha1.NetworkPolicyNone {
		return false, o.networkPolicy != nil && o.networkPolicy.DeletionTimestamp.IsZero()
	}
	return o.networkPolicy == nil || !desired.NetworkPolicyMatches(o.export, o.networkPolicy), false
}

// applyNetworkPolicy makes the NetworkPolicy or corrects it.
func (r *Reconciler) applyNetworkPolicy(ctx context.Context, o *observed, p *plan) error {
	ac, err := desired.NetworkPolicy(o.export)
	if err != nil {
		err = apierrors.NewBadRequest(err.Error())
	} else {
		err = r.applyOwn(ctx, ac, o.networkPolicy != nil)
	}
	return p.needed("the NetworkPolicy", err)
}

// removeNetworkPolicy deletes a NetworkPolicy of the export's own.
func (r *Reconciler) removeNetworkPolicy(ctx context.Context, p *networkingv1.NetworkPolicy) error {
	return client.IgnoreNotFound(r.Delete(ctx, p, client.Preconditions{UID: &p.UID}))
}
