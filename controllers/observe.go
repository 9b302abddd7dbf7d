package controllers

import (
	"cmp"
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
	"github.com/nbdexport/nbdexport/controllers/serverstatus"
)

// observed is what a decision is made from.
type observed struct {
	export *v1alpha1.NBDExport
	// pod, service and configMap have the names that the export's own would have,
	// whoever they belong to; nil if there is none.
	pod       *corev1.Pod
	service   *corev1.Service
	configMap *corev1.ConfigMap
	// networkPolicy too, unless the export has none and somebody else does.
	networkPolicy *networkingv1.NetworkPolicy
	// claims are the claims of the export, by name, without those that don't
	// exist.
	claims map[string]*corev1.PersistentVolumeClaim
	// temporary are the claims to which snapshots are restored, by name: all that the
	// export owns, and until it has to end also those of others that have the name
	// of one.
	temporary map[string]*corev1.PersistentVolumeClaim
	// snapshots are those that are yet to be restored, by the volume's name.
	snapshots map[string]snapshot
	// users are the pods that use a claim, by the claim's name, without the
	// export's own.
	users map[string][]corev1.Pod
	// others are the other exports that use a claim of this one.
	others []v1alpha1.NBDExport
	// targets are the pods that podDeleted conditions name, by name, without those
	// that don't exist.
	targets map[string]*corev1.Pod
	// selected are the pods that selectors find, by the name of the exit condition.
	selected map[string][]corev1.Pod
	// objects are those of objectConditions, by the name of the exit condition.
	objects map[string]looked
	// answer is what the server said of itself, as listen returns it.
	answer      *serverstatus.Answer
	answerKnown bool
	// node is that of the pod.
	node node
	// trust is what there is for TLS.
	trust trust
	now   time.Time
}

// observe reads what the decision about an export needs.
func (r *Reconciler) observe(ctx context.Context, e *v1alpha1.NBDExport) (*observed, error) {
	o := &observed{
		export:  e,
		claims:  map[string]*corev1.PersistentVolumeClaim{},
		users:   map[string][]corev1.Pod{},
		targets: map[string]*corev1.Pod{},
		now:     r.Clock.Now(),
	}
	name := desired.ChildName(e.Name)
	var err error
	if o.pod, err = find[corev1.Pod](ctx, r, e.Namespace, name); err != nil {
		return nil, err
	}
	if o.temporary, err = r.ownClaims(ctx, e); err != nil {
		return nil, err
	}
	if o.node, err = r.nodeOf(ctx, o.pod, o.now); err != nil {
		return nil, err
	}
	if !e.DeletionTimestamp.IsZero() || isComplete(e) || e.GetStatus().Exit != nil {
		return o, nil // only the pod is left to be seen to its end
	}
	if o.service, err = find[corev1.Service](ctx, r, e.Namespace, name); err != nil {
		return nil, err
	}
	if o.configMap, err = find[corev1.ConfigMap](ctx, r, e.Namespace, name); err != nil {
		return nil, err
	}
	if o.networkPolicy, err = r.networkPolicyOf(ctx, e); err != nil {
		return nil, err
	}
	if o.trust, err = r.trust(ctx, o); err != nil {
		return nil, err
	}
	for _, claim := range claimNames(e) {
		pvc, err := find[corev1.PersistentVolumeClaim](ctx, r, e.Namespace, claim)
		if err != nil {
			return nil, err
		}
		if pvc != nil {
			o.claims[claim] = pvc
		}
		if o.users[claim], err = r.usersOf(ctx, e, claim); err != nil {
			return nil, err
		}
	}
	if o.others, err = r.othersOf(ctx, e); err != nil {
		return nil, err
	}
	for _, target := range targetNames(e) {
		pod, err := r.target(ctx, e, target)
		if err != nil {
			return nil, err
		}
		if pod != nil {
			o.targets[target] = pod
		}
	}
	if err := r.observeSnapshots(ctx, o); err != nil {
		return nil, err
	}
	o.objects = r.objectsOf(ctx, e)
	o.selected, err = r.selectedPods(ctx, e)
	return o, err
}

// find reads an object from the cache, and from the API server when the cache
// doesn't have it: that a pod is gone must not be concluded from a cache
// that hasn't seen it yet. It returns nil for what doesn't exist.
func find[T any, P interface {
	*T
	client.Object
}](ctx context.Context, r *Reconciler, namespace, name string) (P, error) {
	key := client.ObjectKey{Namespace: namespace, Name: name}
	for _, from := range []client.Reader{r.Client, r.Live} {
		obj := P(new(T))
		err := from.Get(ctx, key, obj)
		if err == nil {
			return obj, nil
		}
		if !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	return nil, nil
}

// byName puts what a cache lists, which is in another order each time, into the same one:
// a message that names the first of several must not change from one look to the next,
// since each new status has the export looked at again.
func byName[T any, P interface {
	*T
	client.Object
}](a, b T) int {
	return cmp.Compare(P(&a).GetName(), P(&b).GetName())
}

// usersOf lists the pods that use a claim, without the export's own, by name.
func (r *Reconciler) usersOf(ctx context.Context, e *v1alpha1.NBDExport, claim string) ([]corev1.Pod, error) {
	var pods corev1.PodList
	err := r.List(ctx, &pods, client.InNamespace(e.Namespace), client.MatchingFields{indexClaim: claim})
	if err != nil {
		return nil, err
	}
	var out []corev1.Pod
	for i := range pods.Items {
		if !owned(e, &pods.Items[i]) {
			out = append(out, pods.Items[i])
		}
	}
	slices.SortFunc(out, byName)
	return out, nil
}

// ownPod is the export's pod; nil if there is none, or if the one with its name
// belongs to somebody else.
func (o *observed) ownPod() *corev1.Pod {
	if o.pod != nil && owned(o.export, o.pod) {
		return o.pod
	}
	return nil
}

// podToEnd is the pod that has to be over before the export can be: its own, even
// if that is orphaned.
func (o *observed) podToEnd() *corev1.Pod {
	if o.pod != nil && orphaned(o.export.Name, o.pod) {
		return o.pod
	}
	return o.ownPod()
}

// orphaned tells whether a pod was made for the export of this name and has lost its
// owner, as "kubectl delete --cascade=orphan" has it. One that is somebody else's
// by now isn't. On its way out it may have been let go already.
func orphaned(export string, pod metav1.Object) bool {
	if pod.GetName() != desired.ChildName(export) || metav1.GetControllerOfNoCopy(pod) != nil ||
		!slices.Contains(pod.GetFinalizers(), v1alpha1.FinalizerReport) && pod.GetDeletionTimestamp() == nil {
		return false
	}
	for k, v := range desired.Labels(export) {
		if pod.GetLabels()[k] != v {
			return false
		}
	}
	return true
}

// owned tells whether the export is the controlling owner of an object.
func owned(e *v1alpha1.NBDExport, obj metav1.Object) bool {
	return metav1.IsControlledBy(obj, e)
}

// isComplete tells whether the export has ended for good.
func isComplete(e *v1alpha1.NBDExport) bool {
	return meta.IsStatusConditionTrue(e.GetStatus().Conditions, v1alpha1.ConditionComplete)
}

// claimNames are the claims of an export, each once.
func claimNames(e *v1alpha1.NBDExport) []string {
	return collect(e.Spec.Volumes, func(v v1alpha1.Volume) string {
		if c := v.Source.PersistentVolumeClaim; c != nil {
			return c.ClaimName
		}
		return ""
	})
}

// targetNames are the pods whose deletion ends an export, each once.
func targetNames(e *v1alpha1.NBDExport) []string {
	return collect(e.Spec.ExitWhen, func(c v1alpha1.ExitCondition) string {
		if c.PodDeleted != nil {
			return c.PodDeleted.GetName()
		}
		return ""
	})
}

// collect lists the names in a list, in order, each once.
func collect[T any](list []T, name func(T) string) []string {
	var out []string
	seen := map[string]bool{"": true}
	for _, item := range list {
		if n := name(item); !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	return out
}
