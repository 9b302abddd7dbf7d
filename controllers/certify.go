package controllers

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/authority"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// certify makes or renews the certificates of an export that are due, and its
// namespace's authority. Without them no pod is made.
func (r *Reconciler) certify(ctx context.Context, o *observed, p *plan) error {
	if o.trust.addresses == nil {
		// The Service was refused, which is said, and tried again.
		p.notMade()
		return nil
	}
	ca, err := r.keepAuthority(ctx, o)
	if err == nil {
		err = r.keepCredential(ctx, o, ca, desired.ServerCredential(o.export, o.trust.addresses), o.trust.server)
	}
	if err == nil {
		err = r.keepCredential(ctx, o, ca, desired.ClientCredential(o.export), o.trust.client)
	}
	switch {
	case apierrors.IsConflict(err) && p.pod == podCreate:
		p.pod = podKeep // it is made in a moment
	case err != nil:
		p.notMade()
	}
	return p.refused("a Secret", err)
}

// keepAuthority returns the authority of the export's namespace. If it is new, or has
// a successor from now on, it is written down first: what it signs has to be
// good with the next operator too.
func (r *Reconciler) keepAuthority(ctx context.Context, o *observed) (*authority.Authority, error) {
	was := o.trust.authority
	if was == nil {
		a, err := authority.New(o.export.Namespace, o.now)
		if err != nil {
			return nil, err
		}
		return a, r.putSecret(ctx, o.trust.ca, desired.AuthoritySecret(o.export.Namespace, a))
	}
	a, err := was.At(o.now)
	if err != nil || a == was {
		return a, err
	}
	return a, r.putSecret(ctx, o.trust.ca, desired.AuthoritySecret(o.export.Namespace, a))
}

// keepCredential writes a Secret of an export unless it is as it has to be.
func (r *Reconciler) keepCredential(ctx context.Context, o *observed, a *authority.Authority, c desired.Credential, have *corev1.Secret) error {
	if have != nil && o.now.Before(c.RenewAt(have, a, o.now)) {
		return nil
	}
	want, err := c.Issue(a, o.now)
	if err != nil {
		return err
	}
	return r.putSecret(ctx, have, want)
}

// putSecret makes a Secret, or changes the one that was read. It isn't applied:
// one that somebody else has made or changed in the meantime is left alone, and
// looked at again.
func (r *Reconciler) putSecret(ctx context.Context, have, want *corev1.Secret) error {
	if have == nil {
		err := r.Create(ctx, want, client.FieldOwner(v1alpha1.FieldOwner))
		if apierrors.IsAlreadyExists(err) {
			return apierrors.NewConflict(corev1.Resource("secrets"), want.Name, fmt.Errorf("somebody has made it in the meantime"))
		}
		return err
	}
	changed := have.DeepCopy()
	changed.Labels = map[string]string{}
	maps.Copy(changed.Labels, have.Labels)
	maps.Copy(changed.Labels, want.Labels)
	changed.Data = want.Data
	return r.Patch(ctx, changed, client.MergeFromWithOptions(have, client.MergeFromWithOptimisticLock{}), client.FieldOwner(v1alpha1.FieldOwner))
}
