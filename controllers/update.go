package controllers

import (
	"context"
	"fmt"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// outdated are the fields of the spec that have changed since a pod was made, and
// that take a new one.
func outdated(e *v1alpha1.NBDExport, pod *corev1.Pod) []string {
	return desired.Changed(e, pod.Annotations[v1alpha1.AnnotationSpec])
}

// update has a pod drain that was made for an earlier spec. One whose server never
// ran has nobody to wait for, and ends at once.
func update(pod *corev1.Pod, fields []string, p plan) plan {
	if pod.DeletionTimestamp.IsZero() {
		p.pod = podRemove
	}
	then := "its server hasn't run, a new one is made at once"
	if serverRan(pod) {
		then = fmt.Sprintf("it drains, which takes %d seconds at most, and clients that are connected may finish; a new one follows", terminationGrace(pod))
	}
	p.say = append(p.say, underWay(v1alpha1.ReasonUpdating,
		fmt.Sprintf("the spec has changed (%s) since the pod %s was made: %s", strings.Join(fields, ", "), pod.Name, then))...)
	return p
}

// stampPod writes onto a pod that it serves the spec as it is, which is so when
// nothing has changed that takes a new pod, or when another version of the operator
// has made it. It puts our labels on again too: what they aren't on any more, the cache
// has without its annotations, and so without the stamp.
func (r *Reconciler) stampPod(ctx context.Context, e *v1alpha1.NBDExport, pod *corev1.Pod) error {
	changed := pod.DeepCopy()
	if changed.Annotations == nil {
		changed.Annotations = map[string]string{}
	}
	changed.Annotations[v1alpha1.AnnotationSpec] = desired.Stamp(e)
	if changed.Labels == nil {
		changed.Labels = map[string]string{}
	}
	maps.Copy(changed.Labels, desired.Labels(e.Name))
	err := r.Patch(ctx, changed, client.MergeFromWithOptions(pod, client.MergeFromWithOptimisticLock{}))
	return client.IgnoreNotFound(err)
}
