package controllers

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// podDeleted looks whether a pod is gone that ends the export. The first such
// condition in the spec counts.
func podDeleted(o *observed) (v1alpha1.ExitStatus, bool) {
	for _, c := range o.export.Spec.ExitWhen {
		if c.PodDeleted == nil {
			continue
		}
		recorded := recordedUID(o.export, c)
		met := podGone(o.targets[c.PodDeleted.GetName()], recorded)
		if c.PodDeleted.Selector != nil {
			met = allGone(o.selected[c.Name], recorded)
		}
		if met {
			now := metav1.NewTime(o.now)
			return v1alpha1.ExitStatus{Condition: c.Name, Reason: v1alpha1.ExitPodDeleted, StartedAt: &now}, true
		}
	}
	return v1alpha1.ExitStatus{}, false
}

// podGone tells whether a pod isn't there any more, or won't be soon. One of the
// same name that came after it doesn't stand in for it.
func podGone(pod *corev1.Pod, recorded types.UID) bool {
	return pod == nil || !pod.DeletionTimestamp.IsZero() || finished(pod) ||
		recorded != "" && pod.UID != recorded
}

// recordedUID is the UID of the pod that a podDeleted condition means; empty if it
// isn't on record. What is on record about one that was changed since is void.
func recordedUID(e *v1alpha1.NBDExport, c v1alpha1.ExitCondition) types.UID {
	for _, w := range e.GetStatus().WatchedPods {
		if uid := types.UID(w.UID); equality.Semantic.DeepEqual(w, watchedAs(c, uid)) {
			return uid
		}
	}
	return ""
}

// watchedAs is the record of the pod that a podDeleted condition means.
func watchedAs(c v1alpha1.ExitCondition, uid types.UID) v1alpha1.WatchedPod {
	w := v1alpha1.WatchedPod{Name: c.Name, UID: string(uid)}
	if name := c.PodDeleted.GetName(); name != "" {
		w.PodName = &name
	}
	if s := c.PodDeleted.Selector; s != nil {
		w.Selector = ptr.To(metav1.FormatLabelSelector(s))
	}
	return w
}

// unrecorded is the whole record of the pods that podDeleted conditions mean, if
// that in the status is another one; else nil.
func unrecorded(o *observed) []v1alpha1.WatchedPod {
	all := []v1alpha1.WatchedPod{}
	for _, c := range o.export.Spec.ExitWhen {
		if c.PodDeleted == nil {
			continue
		}
		uid := recordedUID(o.export, c)
		pod := o.targets[c.PodDeleted.GetName()]
		if found := o.selected[c.Name]; len(found) > 0 {
			pod = &found[0]
		}
		if uid == "" && pod != nil {
			uid = pod.UID
		}
		if uid != "" {
			all = append(all, watchedAs(c, uid))
		}
	}
	if equality.Semantic.DeepEqual(all, o.export.GetStatus().WatchedPods) {
		return nil
	}
	return all
}

// target reads a pod that podDeleted conditions name; nil if it doesn't exist. The cache
// is only believed that the pod on record is there still: it may have the one before,
// which is on its way out, when its successor has been there for a moment.
func (r *Reconciler) target(ctx context.Context, e *v1alpha1.NBDExport, name string) (*corev1.Pod, error) {
	pod, err := find[corev1.Pod](ctx, r, e.Namespace, name)
	if err != nil || pod == nil || recordedAs(e, pod) && !podGone(pod, "") {
		return pod, err
	}
	var live corev1.Pod
	err = r.Live.Get(ctx, client.ObjectKeyFromObject(pod), &live)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return &live, err
}

// recordedAs tells whether every condition that names a pod has this one on record.
func recordedAs(e *v1alpha1.NBDExport, pod *corev1.Pod) bool {
	for _, c := range e.Spec.ExitWhen {
		if c.PodDeleted == nil || c.PodDeleted.GetName() != pod.Name {
			continue
		}
		if recordedUID(e, c) != pod.UID {
			return false
		}
	}
	return true
}
