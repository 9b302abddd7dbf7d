package controllers

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// temporaryNames are the names of the temporary claims of an export.
func temporaryNames(e *v1alpha1.NBDExport) []string {
	return collect(e.Spec.Volumes, func(v v1alpha1.Volume) string {
		if v.Source.VolumeSnapshot != nil {
			return desired.TemporaryClaimName(e.Name, v.Name)
		}
		return ""
	})
}

// ownerOfClaim is the UID of a claim's controlling owner, for indexOwner.
func ownerOfClaim(claim *corev1.PersistentVolumeClaim) []string {
	if ref := metav1.GetControllerOfNoCopy(claim); ref != nil {
		return []string{string(ref.UID)}
	}
	return nil
}

// ownClaims are the claims that an export owns, by name.
func (r *Reconciler) ownClaims(ctx context.Context, e *v1alpha1.NBDExport) (map[string]*corev1.PersistentVolumeClaim, error) {
	var list corev1.PersistentVolumeClaimList
	err := r.List(ctx, &list, client.InNamespace(e.Namespace), client.MatchingFields{indexOwner: string(e.UID)})
	out := map[string]*corev1.PersistentVolumeClaim{}
	for i := range list.Items {
		out[list.Items[i].Name] = &list.Items[i]
	}
	return out, err
}

// observeSnapshots reads the temporary claims that an export needs, and the
// snapshots of those that aren't there or not bound.
func (r *Reconciler) observeSnapshots(ctx context.Context, o *observed) error {
	for _, name := range temporaryNames(o.export) {
		if o.temporary[name] != nil {
			continue
		}
		claim, err := find[corev1.PersistentVolumeClaim](ctx, r, o.export.Namespace, name)
		if err != nil {
			return err
		}
		if claim != nil {
			o.temporary[name] = claim
		}
	}
	var err error
	o.snapshots, err = r.snapshotsOf(ctx, o)
	return err
}

func temporaryNameTaken(o *observed) (finding, bool) {
	for _, name := range temporaryNames(o.export) {
		claim := o.temporary[name]
		switch {
		case claim == nil || owned(o.export, claim):
		case ofEarlier(o.export, claim):
			return found(v1alpha1.ReasonNameTaken, "the temporary PersistentVolumeClaim %s is that of an earlier export of the same name: a new one follows when it is gone", name)
		default:
			return found(v1alpha1.ReasonNameTaken, "the PersistentVolumeClaim %s isn't this export's, which would have its temporary one there: remove it, or give the export another name", name)
		}
	}
	return finding{}, false
}

// unrestorable finds a snapshot that can't be restored now. One that is being
// deleted stays until what is restored from it is there.
func unrestorable(o *observed) (finding, bool) {
	for _, v := range o.export.Spec.Volumes {
		f := o.snapshots[v.Name].trouble
		begun := o.temporary[desired.TemporaryClaimName(o.export.Name, v.Name)] != nil
		if f.reason != "" && (!begun || f.reason == v1alpha1.ReasonSnapshotNotFound) {
			return f, true
		}
	}
	return finding{}, false
}

func temporaryDeleting(o *observed) (finding, bool) {
	for _, name := range temporaryNames(o.export) {
		if c := o.temporary[name]; c != nil && !c.DeletionTimestamp.IsZero() {
			return found(v1alpha1.ReasonStarting, "the temporary PersistentVolumeClaim %s is being deleted: the snapshot is restored anew when it is gone", name)
		}
	}
	return finding{}, false
}

func temporaryLost(o *observed) (finding, bool) {
	for _, name := range temporaryNames(o.export) {
		if c := o.temporary[name]; c != nil && c.Status.Phase == corev1.ClaimLost {
			return found(v1alpha1.ReasonClaimLost, "the temporary PersistentVolumeClaim %s has lost its volume %s: delete it, the snapshot is then restored anew", name, c.Spec.VolumeName)
		}
	}
	return finding{}, false
}

// temporaryPending finds a temporary claim that isn't restored, which keeps the pod
// from a node.
func temporaryPending(o *observed, why string) (finding, bool) {
	for _, name := range temporaryNames(o.export) {
		if c := o.temporary[name]; c != nil && c.Status.Phase == corev1.ClaimPending {
			return found(v1alpha1.ReasonClaimPending, "the temporary PersistentVolumeClaim %s isn't restored from its snapshot: its Events say why, and storageClassName has to be a class of the CSI driver that took the snapshot: %s", name, brief(why))
		}
	}
	return finding{}, false
}

// restore has the temporary claims made that are missing and can be restored, and
// those removed that the export doesn't need, such as one from another snapshot
// than the spec has now. It is false when all is as it has to be for a pod.
func (p *plan) restore(o *observed) bool {
	needed := map[string]bool{}
	for _, v := range o.export.Spec.Volumes {
		if v.Source.VolumeSnapshot == nil {
			continue
		}
		name := desired.TemporaryClaimName(o.export.Name, v.Name)
		if claim := o.temporary[name]; claim != nil {
			needed[name] = desired.RestoredFrom(claim, v)
		} else {
			p.makeClaims = append(p.makeClaims, desired.TemporaryClaim(o.export, v, o.snapshots[v.Name].facts))
		}
	}
	p.removeClaims = o.unneeded(needed)
	if len(p.makeClaims)+len(p.removeClaims) == 0 {
		return false
	}
	p.say = append(p.say, underWay(v1alpha1.ReasonStarting, "the snapshots are being restored to temporary claims: the pod follows")...)
	return true
}

// unneeded are the export's own temporary claims that aren't needed and have not
// been deleted yet.
func (o *observed) unneeded(needed map[string]bool) []*corev1.PersistentVolumeClaim {
	var out []*corev1.PersistentVolumeClaim
	for _, name := range slices.Sorted(maps.Keys(o.temporary)) {
		if c := o.temporary[name]; !needed[name] && owned(o.export, c) && c.DeletionTimestamp.IsZero() {
			out = append(out, c)
		}
	}
	return out
}

// removeTemporary has the temporary claims of a complete export removed once its
// pod is over and let go. The pod has to go too, with its logs: the cluster keeps
// a claim for as long as there is a pod that lists it, even one that has finished.
func (p *plan) removeTemporary(o *observed) {
	if p.pod != podKeep || p.releasePod || len(o.temporary) == 0 {
		return
	}
	if pod := o.podToEnd(); pod != nil {
		if over, _ := o.over(pod); !over {
			return
		}
		if pod.DeletionTimestamp.IsZero() {
			p.pod = podRemove
		}
	}
	p.removeClaims = o.unneeded(nil)
}

// untilSnapshot has a plan made again while a snapshot can't be restored: nobody
// tells when it can.
func (p *plan) untilSnapshot(o *observed) {
	for _, s := range o.snapshots {
		switch s.trouble.reason {
		case "":
		case v1alpha1.ReasonSnapshotsUnsupported, v1alpha1.ReasonInvalidVolume:
			p.lookAgainIn(refusedDelay)
		default:
			p.lookAgainIn(snapshotDelay)
		}
	}
}

// makeTemporary makes temporary claims. They aren't applied: one of somebody else
// that has come to be in between must not be touched. If the export vanishes before
// it has a pod, they go with it as all that it owns.
func (r *Reconciler) makeTemporary(ctx context.Context, p *plan) error {
	for _, claim := range p.makeClaims {
		err := r.Create(ctx, claim, client.FieldOwner(v1alpha1.FieldOwner))
		if err := p.refused("the temporary PersistentVolumeClaim "+claim.Name, err); err != nil {
			return err
		}
	}
	return nil
}

// removeClaim deletes a temporary claim, and no other that has its name by now.
func (r *Reconciler) removeClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	return client.IgnoreNotFound(r.Delete(ctx, claim, client.Preconditions{UID: &claim.UID}))
}
