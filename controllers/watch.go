package controllers

import (
	"context"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

const (
	// indexClaim finds pods and exports by a claim that they use.
	indexClaim = "nbdexport.claim"
	// indexOwner finds claims by the UID of their controlling owner.
	indexOwner = "nbdexport.owner"
	// indexTarget finds exports by a pod whose deletion ends them, and by the one that
	// has, whoever made it, the name of their own.
	indexTarget = "nbdexport.target"
	// indexSelector finds exports that select pods whose deletion ends them.
	indexSelector = "nbdexport.selector"
)

// SetupWithManager makes a manager run the reconciler whenever something happens
// that concerns an export, and ask its servers how they are doing.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager, opts controller.Options) error {
	index := mgr.GetFieldIndexer()
	for _, i := range []struct {
		obj   client.Object
		field string
		of    client.IndexerFunc
	}{
		{&corev1.Pod{}, indexClaim, func(o client.Object) []string { return claimsOfPod(o.(*corev1.Pod)) }},
		{&v1alpha1.NBDExport{}, indexClaim, func(o client.Object) []string {
			e := o.(*v1alpha1.NBDExport)
			return append(claimNames(e), temporaryNames(e)...)
		}},
		{&corev1.PersistentVolumeClaim{}, indexOwner, func(o client.Object) []string { return ownerOfClaim(o.(*corev1.PersistentVolumeClaim)) }},
		{&v1alpha1.NBDExport{}, indexTarget, func(o client.Object) []string {
			e := o.(*v1alpha1.NBDExport)
			return append(targetNames(e), desired.ChildName(e.Name))
		}},
		{&v1alpha1.NBDExport{}, indexSelector, func(o client.Object) []string { return selectors(o.(*v1alpha1.NBDExport)) }},
	} {
		if err := index.IndexField(ctx, i.obj, i.field, i.of); err != nil {
			return err
		}
	}
	if err := mgr.Add(r.Servers); err != nil {
		return err
	}
	if opts.RateLimiter == nil {
		opts.RateLimiter = retries()
	}
	r.told = cache.NewLRUExpireCacheWithClock(maxTold, r.Clock)
	return ctrl.NewControllerManagedBy(mgr).
		Named("nbdexport").
		For(&v1alpha1.NBDExport{}).
		Owns(&corev1.Pod{}).
		Owns(&corev1.Service{}).
		Owns(&corev1.ConfigMap{}).
		Owns(&networkingv1.NetworkPolicy{}).
		Owns(&corev1.Secret{}).
		Watches(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.exportsOfAuthority), builder.WithPredicates(authorityMoved())).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.exportsOfPod), builder.WithPredicates(podMoved())).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(exportOfOrphan)).
		Watches(&v1alpha1.NBDExport{}, handler.EnqueueRequestsFromMapFunc(r.exportsBeside), builder.WithPredicates(exportMoved())).
		Watches(&corev1.PersistentVolumeClaim{}, handler.EnqueueRequestsFromMapFunc(r.exportsOfClaim)).
		WatchesRawSource(source.Channel(r.Servers.Changes(), &handler.EnqueueRequestForObject{})).
		WithOptions(opts).
		Complete(r)
}

// retries are when an export is tried again for which something has failed: at once, then
// later and later, but never later than after refusedDelay. After an hour without an API
// server, or with a broken webhook, nobody should have to wait for a quarter of another.
func retries() workqueue.TypedRateLimiter[reconcile.Request] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](5*time.Millisecond, refusedDelay)
}

// podMoved lets those changes of a pod through that concern others: it is there,
// on a node, on its way out, over, under other labels.
func podMoved() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(u event.UpdateEvent) bool {
		from, to := u.ObjectOld.(*corev1.Pod), u.ObjectNew.(*corev1.Pod)
		return from.UID != to.UID ||
			from.Spec.NodeName != to.Spec.NodeName ||
			from.Status.Phase != to.Status.Phase ||
			!maps.Equal(from.Labels, to.Labels) ||
			from.DeletionTimestamp.IsZero() != to.DeletionTimestamp.IsZero()
	}}
}

// exportsOfPod are the exports that a pod ends, the one whose pod it is or keeps from
// being made, and those whose claims it uses.
func (r *Reconciler) exportsOfPod(ctx context.Context, o client.Object) []reconcile.Request {
	out := append(r.exportsBy(ctx, o.GetNamespace(), indexTarget, o.GetName()), r.exportsSelecting(ctx, o)...)
	for _, claim := range claimsOfPod(o.(*corev1.Pod)) {
		out = append(out, r.exportsBy(ctx, o.GetNamespace(), indexClaim, claim)...)
	}
	return out
}

// exportOfOrphan is the export that a pod was made for whose owner is on record no
// more. Other pods of exports come by their owner.
func exportOfOrphan(_ context.Context, o client.Object) []reconcile.Request {
	name := o.GetAnnotations()[v1alpha1.AnnotationExport]
	if name == "" || !orphaned(name, o) {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: name}}}
}

// exportMoved lets those changes of an export through that others may wait for: it
// ends, it has ended, it is gone, it takes other volumes.
func exportMoved() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(u event.UpdateEvent) bool {
			from, to := u.ObjectOld.(*v1alpha1.NBDExport), u.ObjectNew.(*v1alpha1.NBDExport)
			return willServe(from) != willServe(to) || isComplete(from) != isComplete(to) ||
				!equality.Semantic.DeepEqual(from.Spec.Volumes, to.Spec.Volumes)
		},
	}
}

// exportsBeside are the other exports that use a claim of an export.
func (r *Reconciler) exportsBeside(ctx context.Context, o client.Object) []reconcile.Request {
	others, err := r.othersOf(ctx, o.(*v1alpha1.NBDExport))
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "can't look up the exports that share a claim", "export", client.ObjectKeyFromObject(o))
		return nil
	}
	var out []reconcile.Request
	for i := range others {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&others[i])})
	}
	return out
}

// exportsOfClaim are the exports of a claim.
func (r *Reconciler) exportsOfClaim(ctx context.Context, o client.Object) []reconcile.Request {
	return r.exportsBy(ctx, o.GetNamespace(), indexClaim, o.GetName())
}

func (r *Reconciler) exportsBy(ctx context.Context, namespace, field, value string) []reconcile.Request {
	var list v1alpha1.NBDExportList
	err := r.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{field: value})
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "can't look up the exports that are concerned", "field", field, "value", value)
		return nil
	}
	var out []reconcile.Request
	for i := range list.Items {
		out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: list.Items[i].Name}})
	}
	return out
}

// claimsOfPod are the claims that a pod uses, those of its ephemeral volumes too.
func claimsOfPod(pod *corev1.Pod) []string {
	return collect(pod.Spec.Volumes, func(v corev1.Volume) string {
		switch {
		case v.PersistentVolumeClaim != nil:
			return v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			return pod.Name + "-" + v.Name
		}
		return ""
	})
}
