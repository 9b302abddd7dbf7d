package controllers

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// allGone tells whether of the pods that a selector finds none is there any more,
// nor will be soon, and at least one has been seen, now or before.
func allGone(found []corev1.Pod, recorded types.UID) bool {
	there := slices.ContainsFunc(found, func(pod corev1.Pod) bool { return !podGone(&pod, "") })
	return (len(found) > 0 || recorded != "") && !there
}

// selectedPods lists the pods that the selectors of an export find, by the name of
// the exit condition. That none is there any more must not be concluded from a
// cache that is behind the record.
func (r *Reconciler) selectedPods(ctx context.Context, e *v1alpha1.NBDExport) (map[string][]corev1.Pod, error) {
	out := map[string][]corev1.Pod{}
	for _, c := range e.Spec.ExitWhen {
		if c.PodDeleted == nil || c.PodDeleted.Selector == nil {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(c.PodDeleted.Selector)
		if err != nil {
			continue // invalidSelector says it
		}
		for _, from := range []client.Reader{r.Client, r.Live} {
			if out[c.Name], err = podsBy(ctx, from, e, selector); err != nil {
				return nil, err
			}
			if !allGone(out[c.Name], recordedUID(e, c)) {
				break
			}
		}
	}
	return out, nil
}

// podsBy lists the pods that a selector finds, without the export's own.
func podsBy(ctx context.Context, from client.Reader, e *v1alpha1.NBDExport, selector labels.Selector) ([]corev1.Pod, error) {
	var list corev1.PodList
	if err := from.List(ctx, &list, client.InNamespace(e.Namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool { return owned(e, &pod) }), nil
}

// invalidSelector finds a selector that the API server can't have checked.
func invalidSelector(o *observed) (finding, bool) {
	for _, c := range o.export.Spec.ExitWhen {
		if c.PodDeleted == nil || c.PodDeleted.Selector == nil {
			continue
		}
		if _, err := metav1.LabelSelectorAsSelector(c.PodDeleted.Selector); err != nil {
			return found(v1alpha1.ReasonInvalidCondition, "the selector of the exit condition %s is invalid: %s: change it", c.Name, brief(err.Error()))
		}
	}
	return finding{}, false
}

// bySelector is the value under which exports with a selector are in indexSelector.
const bySelector = "yes"

// selectors tells the index whether an export has a selector.
func selectors(e *v1alpha1.NBDExport) []string {
	return collect(e.Spec.ExitWhen, func(c v1alpha1.ExitCondition) string {
		if c.PodDeleted != nil && c.PodDeleted.Selector != nil {
			return bySelector
		}
		return ""
	})
}

// exportsSelecting are the exports with a selector that finds a pod.
func (r *Reconciler) exportsSelecting(ctx context.Context, pod client.Object) []reconcile.Request {
	var list v1alpha1.NBDExportList
	err := r.List(ctx, &list, client.InNamespace(pod.GetNamespace()), client.MatchingFields{indexSelector: bySelector})
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "can't look up the exports that select a pod", "pod", client.ObjectKeyFromObject(pod))
		return nil
	}
	var out []reconcile.Request
	for i := range list.Items {
		for _, c := range list.Items[i].Spec.ExitWhen {
			if c.PodDeleted == nil || c.PodDeleted.Selector == nil {
				continue
			}
			selector, err := metav1.LabelSelectorAsSelector(c.PodDeleted.Selector)
			if err == nil && selector.Matches(labels.Set(pod.GetLabels())) {
				out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
				break
			}
		}
	}
	return out
}
