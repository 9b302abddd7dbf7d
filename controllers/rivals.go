package controllers

import (
	"cmp"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// usedByAnotherExport keeps two servers from one claim that at least one of them
// writes. Whoever has a pod goes on; of those without one, whoever has had one
// comes first, and then the oldest.
func usedByAnotherExport(o *observed) (finding, bool) {
	if o.ownPod() != nil {
		return finding{}, false
	}
	for _, claim := range claimNames(o.export) {
		for i := range o.users[claim] {
			pod := &o.users[claim][i]
			if _, ours := pod.Labels[v1alpha1.LabelExport]; !ours || !mayServe(pod, o) {
				continue
			}
			name, writes := o.exportOf(pod, claim)
			if writes || writesClaim(o.export, claim) {
				return found(v1alpha1.ReasonVolumeInUse, "the pod %s of the NBDExport %s uses the PersistentVolumeClaim %s, and one of the two exports is ReadWrite: this one starts when the other has ended; end or delete that one, or make both ReadOnly or CopyOnWrite",
					pod.Name, name, claim)
			}
		}
	}
	for _, claim := range claimNames(o.export) {
		for i := range o.others {
			if other := &o.others[i]; willServe(other) && conflict(o.export, other, claim) && before(other, o.export) {
				return found(v1alpha1.ReasonVolumeInUse, "the NBDExport %s was there first for the PersistentVolumeClaim %s, and one of the two exports is ReadWrite: this one starts when the other has ended; delete that one if it isn't needed, or make both ReadOnly or CopyOnWrite",
					other.Name, claim)
			}
		}
	}
	return finding{}, false
}

// mayServe tells whether a server may run in a pod, now or later.
func mayServe(pod *corev1.Pod, o *observed) bool {
	over, _ := podOver(pod, o.now)
	return !over && !reportedEnd(pod)
}

// willServe tells whether a pod will be made for an export that has none.
func willServe(e *v1alpha1.NBDExport) bool {
	return e.DeletionTimestamp.IsZero() && e.GetStatus().Exit == nil && !isComplete(e)
}

// exportOf is the name of the export that a pod serves, and whether it writes a
// claim. One that doesn't exist any more may well do so.
func (o *observed) exportOf(pod *corev1.Pod, claim string) (name string, writes bool) {
	for i := range o.others {
		if e := &o.others[i]; owned(e, pod) {
			// A pod that was made for other volumes may write what these don't.
			return e.Name, writesClaim(e, claim) || slices.Contains(outdated(e, pod), "volumes")
		}
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		return ref.Name, true
	}
	return pod.Labels[v1alpha1.LabelExport], true
}

// conflict tells whether two exports must not serve a claim at the same time.
func conflict(a, b *v1alpha1.NBDExport, claim string) bool {
	return slices.Contains(claimNames(b), claim) && (writesClaim(a, claim) || writesClaim(b, claim))
}

// writesClaim tells whether an export opens any part of a claim ReadWrite. One that
// is CopyOnWrite is only read.
func writesClaim(e *v1alpha1.NBDExport, claim string) bool {
	return slices.ContainsFunc(e.Spec.Volumes, func(v v1alpha1.Volume) bool {
		s := v.Source.PersistentVolumeClaim
		return s != nil && s.ClaimName == claim && v.GetAccess() == v1alpha1.ReadWrite
	})
}

// before tells whether the first of two exports without a pod comes before the
// second. One that has served keeps its place while its pod is replaced.
func before(a, b *v1alpha1.NBDExport) bool {
	if a, b := a.GetStatus().PodName != nil, b.GetStatus().PodName != nil; a != b {
		return a
	}
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID)) < 0
}

// othersOf lists the other exports that use one of an export's claims, each once.
func (r *Reconciler) othersOf(ctx context.Context, e *v1alpha1.NBDExport) ([]v1alpha1.NBDExport, error) {
	var out []v1alpha1.NBDExport
	seen := map[types.UID]bool{e.UID: true}
	for _, claim := range claimNames(e) {
		var list v1alpha1.NBDExportList
		err := r.List(ctx, &list, client.InNamespace(e.Namespace), client.MatchingFields{indexClaim: claim})
		if err != nil {
			return nil, err
		}
		slices.SortFunc(list.Items, byName)
		for i := range list.Items {
			if uid := list.Items[i].UID; !seen[uid] {
				seen[uid] = true
				out = append(out, list.Items[i])
			}
		}
	}
	return out, nil
}

// lookAgain asks the API server for the pods of the other exports that must not
// serve at the same time: the cache may not have one yet that was made a moment
// ago. It is called when no other pod is being made.
func (r *Reconciler) lookAgain(ctx context.Context, o *observed) (finding, bool, error) {
	var err error
	if o.others, err = r.othersOf(ctx, o.export); err != nil {
		return finding{}, false, err
	}
	for _, claim := range claimNames(o.export) {
		for i := range o.others {
			other := &o.others[i]
			if !conflict(o.export, other, claim) {
				continue
			}
			var pod corev1.Pod
			key := client.ObjectKey{Namespace: other.Namespace, Name: desired.ChildName(other.Name)}
			err := r.Live.Get(ctx, key, &pod)
			if client.IgnoreNotFound(err) != nil {
				return finding{}, false, err
			}
			if err == nil && owned(other, &pod) {
				o.users[claim] = append(o.users[claim], pod)
			}
		}
	}
	f, found := usedByAnotherExport(o)
	return f, found, nil
}
