package controllers

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/authority"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// secretDelay is when a Secret is looked at again that keeps the pod from being
// made. It isn't watched: that would need all Secrets in the cache.
const secretDelay = 10 * time.Second

// trust is what there is for the TLS of an export. What doesn't matter to it is nil.
type trust struct {
	// ca, server and client are the Secrets with the names that the operator's own
	// would have, whoever they belong to; nil if there is none.
	ca, server, client *corev1.Secret
	// authority is what ca holds; nil if there is none, or if trouble says what is
	// wrong with it.
	authority *authority.Authority
	trouble   string
	// addresses are those of the Service; nil as long as they aren't known.
	addresses []string
	// brought is the Secret that the export names, before its pod is made; nil if
	// it doesn't exist.
	brought *corev1.Secret
}

// trust reads what there is for the TLS of an export. The Secret that it names is
// asked for as long as there is no pod, which then has it mounted.
func (r *Reconciler) trust(ctx context.Context, o *observed) (t trust, err error) {
	e := o.export
	if e.GetStatus().Exit != nil {
		return t, nil
	}
	if ref := e.Spec.TLS.GetSecretRef(); ref != nil && o.ownPod() == nil {
		var s corev1.Secret
		err := r.Live.Get(ctx, client.ObjectKey{Namespace: e.Namespace, Name: ref.Name}, &s)
		if err == nil {
			t.brought = &s
		}
		return t, client.IgnoreNotFound(err)
	}
	if !e.Spec.TLS.Issued() {
		return t, nil
	}
	for _, s := range []struct {
		name string
		to   **corev1.Secret
	}{
		{v1alpha1.AuthoritySecret, &t.ca},
		{desired.SecretName(e.Name, desired.RoleServer), &t.server},
		{desired.SecretName(e.Name, desired.RoleClient), &t.client},
	} {
		if *s.to, err = r.secret(ctx, e.Namespace, s.name); err != nil {
			return t, err
		}
	}
	if t.ca != nil && oursAuthority(t.ca) {
		if t.authority, err = authority.Parse(t.ca.Data, o.now); err != nil {
			t.trouble = err.Error()
		}
	}
	if o.service != nil {
		t.addresses = o.service.Spec.ClusterIPs
	}
	return t, nil
}

// secret reads a Secret with one of the operator's names. Of one without its label
// nothing but the metadata is asked for, which tell whose it is: what somebody else
// keeps there is none of the operator's business.
func (r *Reconciler) secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	var s corev1.Secret
	key := client.ObjectKey{Namespace: namespace, Name: name}
	err := r.Get(ctx, key, &s)
	if !apierrors.IsNotFound(err) {
		return &s, err
	}
	var m metav1.PartialObjectMetadata
	m.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	if err := r.Live.Get(ctx, key, &m); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	if _, ours := m.Labels[v1alpha1.LabelTLS]; !ours {
		return &corev1.Secret{ObjectMeta: m.ObjectMeta}, nil
	}
	if err := r.Live.Get(ctx, key, &s); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return &s, nil
}

// oursAuthority tells whether a Secret with the authority's name is the operator's.
func oursAuthority(s *corev1.Secret) bool {
	return s.Labels[v1alpha1.LabelTLS] == desired.RoleAuthority
}

// certificates finds out whether certificates are to be made or renewed, now or
// when.
func (p *plan) certificates(o *observed) {
	t := o.trust
	if !o.export.Spec.TLS.Issued() || t.trouble != "" {
		return
	}
	if t.authority == nil || t.server == nil || t.client == nil {
		p.certify = true
		return
	}
	for _, c := range []struct {
		credential desired.Credential
		secret     *corev1.Secret
	}{
		{desired.ServerCredential(o.export, t.addresses), t.server},
		{desired.ClientCredential(o.export), t.client},
	} {
		at := c.credential.RenewAt(c.secret, t.authority, o.now)
		if !o.now.Before(at) {
			p.certify = true
			continue
		}
		p.lookAgainIn(at.Sub(o.now))
	}
}

// authorityMoved lets changes and the end of the authorities' Secrets through. That
// one is made follows from an export that is looked at already.
func authorityMoved() predicate.Predicate {
	return predicate.And(
		predicate.NewPredicateFuncs(func(o client.Object) bool { return o.GetName() == v1alpha1.AuthoritySecret }),
		predicate.Funcs{
			CreateFunc: func(event.CreateEvent) bool { return false },
			UpdateFunc: func(u event.UpdateEvent) bool {
				return u.ObjectOld.GetResourceVersion() != u.ObjectNew.GetResourceVersion()
			},
		})
}

// exportsOfAuthority are the exports whose certificates the authority of a
// namespace signs.
func (r *Reconciler) exportsOfAuthority(ctx context.Context, o client.Object) []reconcile.Request {
	var list v1alpha1.NBDExportList
	if err := r.List(ctx, &list, client.InNamespace(o.GetNamespace())); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "can't look up the exports of an authority", "namespace", o.GetNamespace())
		return nil
	}
	var out []reconcile.Request
	for i := range list.Items {
		if e := &list.Items[i]; e.Spec.TLS.Issued() && !isComplete(e) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(e)})
		}
	}
	return out
}
