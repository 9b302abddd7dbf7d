package controllers

import (
	"context"
	"errors"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
	"github.com/nbdexport/nbdexport/controllers/serverstatus"
)

// +kubebuilder:rbac:groups=nbdexport.io,resources=nbdexports,verbs=get;list;watch;patch;delete
// +kubebuilder:rbac:groups=nbdexport.io,resources=nbdexports/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups="",resources=services,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=persistentvolumeclaims,verbs=get;list;watch;create;delete
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create

// Reconciler brings the pods of exports and what else is made for them to where their
// specs and exit conditions want them. All exported fields have to be set.
type Reconciler struct {
	// Client reads from the cache and writes to the API server.
	client.Client
	// Live reads from the API server.
	Live client.Reader
	// Recorder takes the Events.
	Recorder events.EventRecorder
	// Image is the image of the server.
	Image string
	// Servers asks the servers of exports how they are doing. SetupWithManager
	// starts it.
	Servers *serverstatus.Watcher
	// Metrics count what happens to exports.
	Metrics *Metrics
	// Clock is what deadlines and other times are compared with.
	Clock clock.PassiveClock

	// told has the Events of the last hour; SetupWithManager makes it.
	told *cache.LRUExpireCache
	// making is held while a pod is made that uses claims.
	making sync.Mutex
	// known are the versions of exports that were written here.
	known known
	// refusals keep the status from being written again and again.
	refusals refusals
}

// conflictDelay is when an export is looked at again that had changed between
// reading and writing: the cache has the change by then.
const conflictDelay = 50 * time.Millisecond

// Reconcile looks at one export and takes the next step.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var e v1alpha1.NBDExport
	err := r.Get(ctx, req.NamespacedName, &e)
	if apierrors.IsNotFound(err) {
		r.known.forget(req.NamespacedName)
		r.Servers.Forget(req.NamespacedName)
		r.refusals.forget(req.NamespacedName)
		return r.releaseOrphan(ctx, req)
	}
	if err != nil || r.known.newerThan(&e) {
		return ctrl.Result{}, err
	}
	o, err := r.observe(ctx, &e)
	if err != nil {
		return ctrl.Result{}, err
	}
	o.answer, o.answerKnown = r.listen(o)
	p := decide(o)
	p.hear(o)
	err = r.apply(ctx, o, &p)
	if p.releaseExport {
		err = errors.Join(err, r.releaseExport(ctx, &e))
	} else {
		err = errors.Join(err, r.writeStatus(ctx, &e, p))
	}
	r.known.note(&e)
	if onlyConflicts(err) {
		return ctrl.Result{RequeueAfter: conflictDelay}, nil
	}
	return ctrl.Result{RequeueAfter: p.again}, err
}

// releaseOrphan lets the pod of an export go that was deleted without waiting for
// it, by somebody who took its finalizer off. The garbage collector tells it to
// end, unless its owner isn't on record any more.
func (r *Reconciler) releaseOrphan(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var pod corev1.Pod
	key := client.ObjectKey{Namespace: req.Namespace, Name: desired.ChildName(req.Name)}
	if err := r.Get(ctx, key, &pod); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	orphan := orphaned(req.Name, &pod)
	ref := metav1.GetControllerOf(&pod)
	if !orphan && (ref == nil || ref.APIVersion != v1alpha1.GroupVersion.String() || ref.Name != req.Name || !held(&pod)) {
		return ctrl.Result{}, nil
	}
	o := &observed{pod: &pod, now: r.Clock.Now()}
	var err error
	if o.node, err = r.nodeOf(ctx, &pod, o.now); err != nil {
		return ctrl.Result{}, err
	}
	over, again := o.over(&pod)
	switch {
	case over:
		return ctrl.Result{}, r.releasePod(ctx, &pod)
	case orphan && pod.DeletionTimestamp.IsZero():
		return ctrl.Result{}, r.removeOrphan(ctx, req, &pod)
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// removeOrphan deletes the pod of an export that doesn't exist, which the cache
// alone can't tell.
func (r *Reconciler) removeOrphan(ctx context.Context, req ctrl.Request, pod *corev1.Pod) error {
	e, err := find[v1alpha1.NBDExport](ctx, r, req.Namespace, req.Name)
	if err != nil || e != nil {
		return err
	}
	return r.removePod(ctx, pod)
}

// onlyConflicts tells whether all errors are about objects that had changed.
func onlyConflicts(err error) bool {
	if err == nil {
		return false
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return apierrors.IsConflict(err)
	}
	for _, e := range joined.Unwrap() {
		if !onlyConflicts(e) {
			return false
		}
	}
	return true
}
