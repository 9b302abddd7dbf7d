package controllers

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// +kubebuilder:rbac:groups=snapshot.storage.k8s.io,resources=volumesnapshots;volumesnapshotcontents,verbs=get

// snapshotDelay is when a snapshot is looked at again that can't be restored yet.
const snapshotDelay = 5 * time.Second

// snapshot is what came of a look at a VolumeSnapshot.
type snapshot struct {
	// trouble says why it can't be restored; no reason if it can.
	trouble finding
	// facts are what its temporary claim depends on.
	facts desired.SnapshotFacts
}

// snapshotsOf looks at the snapshots that an export is yet to be restored from, by
// the volume's name. One whose temporary claim is bound doesn't matter any more.
//
// They are asked for and not watched, as the objects of objectConditions are: not
// every cluster has snapshots, and this operator shouldn't have all of them in
// its memory.
func (r *Reconciler) snapshotsOf(ctx context.Context, o *observed) (map[string]snapshot, error) {
	out := map[string]snapshot{}
	for _, v := range o.export.Spec.Volumes {
		if v.Source.VolumeSnapshot == nil {
			continue
		}
		claim := o.temporary[desired.TemporaryClaimName(o.export.Name, v.Name)]
		if claim != nil && claim.Status.Phase != corev1.ClaimPending {
			continue
		}
		s, err := r.snapshotOf(ctx, o.export.Namespace, *v.Source.VolumeSnapshot)
		if err != nil {
			return nil, err
		}
		out[v.Name] = s
	}
	return out, nil
}

// snapshotOf looks at a snapshot, and at what tells how to restore it: its content,
// and the claim that it was taken of.
func (r *Reconciler) snapshotOf(ctx context.Context, namespace string, source v1alpha1.SnapshotSource) (snapshot, error) {
	obj, err := r.getSnapshotObject(ctx, "VolumeSnapshot", namespace, source.Name)
	if err != nil {
		return snapshot{trouble: unread(ctx, source.Name, err)}, nil
	}
	if f, found := unready(obj); found {
		return snapshot{trouble: f}, nil
	}
	content, err := r.getSnapshotObject(ctx, "VolumeSnapshotContent", metav1.NamespaceNone, contentOf(obj))
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		// With rights in its own namespaces only, the operator may not get it: it has no namespace.
		content = nil
	case err != nil:
		return snapshot{trouble: unread(ctx, source.Name, err)}, nil
	}
	var claim *corev1.PersistentVolumeClaim
	if name, _, _ := unstructured.NestedString(obj.Object, "spec", "source", "persistentVolumeClaimName"); name != "" {
		if claim, err = find[corev1.PersistentVolumeClaim](ctx, r, namespace, name); err != nil {
			return snapshot{}, err
		}
	}
	return restorable(obj, content, claim, source), nil
}

// getSnapshotObject reads an object of the snapshots' API group. Its types aren't
// imported: a few fields are all that is looked at.
func (r *Reconciler) getSnapshotObject(ctx context.Context, kind, namespace, name string) (*unstructured.Unstructured, error) {
	obj := &unstructured.Unstructured{}
	obj.SetGroupVersionKind(schema.GroupVersionKind{Group: desired.SnapshotGroup, Version: "v1", Kind: kind})
	return obj, r.Live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, obj)
}

// unread says why a snapshot couldn't be read. What passes isn't told in its own
// words, which may be others each time.
func unread(ctx context.Context, name string, err error) finding {
	switch {
	case meta.IsNoMatchError(err):
		return finding{v1alpha1.ReasonSnapshotsUnsupported, fmt.Sprintf(
			"the VolumeSnapshot %s can't be restored, since the API server has no VolumeSnapshots in %s/v1: install the CRDs and the controller of the CSI external-snapshotter", name, desired.SnapshotGroup)}
	case apierrors.IsForbidden(err):
		return finding{v1alpha1.ReasonSnapshotsUnsupported, fmt.Sprintf(
			"the operator may not get VolumeSnapshots, such as %s: give its service account the right to get volumesnapshots.%s", name, desired.SnapshotGroup)}
	case apierrors.IsNotFound(err):
		return finding{v1alpha1.ReasonSnapshotNotFound, fmt.Sprintf(
			"the VolumeSnapshot %s doesn't exist: create it, the export then starts", name)}
	}
	ctrl.LoggerFrom(ctx).Error(err, "can't look at a snapshot", "snapshot", name)
	return finding{v1alpha1.ReasonSnapshotNotReady, fmt.Sprintf(
		"the VolumeSnapshot %s can't be read for now: this is tried again, and the operator's log says what the trouble is", name)}
}

// unready finds a snapshot that no claim can be restored from now.
func unready(obj *unstructured.Unstructured) (finding, bool) {
	if obj.GetDeletionTimestamp() != nil {
		return found(v1alpha1.ReasonSnapshotDeleting, "the VolumeSnapshot %s is being deleted: create the export anew with another one", obj.GetName())
	}
	ready, _, _ := unstructured.NestedBool(obj.Object, "status", "readyToUse")
	if ready && contentOf(obj) != "" {
		return finding{}, false
	}
	if text, _, _ := unstructured.NestedString(obj.Object, "status", "error", "message"); text != "" {
		return found(v1alpha1.ReasonSnapshotFailed, "the VolumeSnapshot %s isn't ready to use: %s: remove the cause or take it anew, the export then starts", obj.GetName(), brief(text))
	}
	return found(v1alpha1.ReasonSnapshotNotReady, "the VolumeSnapshot %s isn't ready to use yet: the export starts when it is", obj.GetName())
}

// contentOf is the name of the VolumeSnapshotContent of a snapshot; empty if it has
// none.
func contentOf(obj *unstructured.Unstructured) string {
	name, _, _ := unstructured.NestedString(obj.Object, "status", "boundVolumeSnapshotContentName")
	return name
}

// restorable is what a snapshot that is ready is restored to. Content and claim are
// nil where they don't exist or can't be read; the claim may be another one than
// that which the snapshot was taken of, of the same name.
func restorable(obj, content *unstructured.Unstructured, claim *corev1.PersistentVolumeClaim, source v1alpha1.SnapshotSource) snapshot {
	s := snapshot{facts: desired.SnapshotFacts{Mode: corev1.PersistentVolumeFilesystem, StorageClass: ptr.Deref(source.StorageClassName, "")}}
	if claim != nil {
		if isBlockClaim(claim) {
			s.facts.Mode = corev1.PersistentVolumeBlock
		}
		if class := claim.Spec.StorageClassName; s.facts.StorageClass == "" && class != nil {
			s.facts.StorageClass = *class
		}
	}
	if content != nil {
		if mode, _, _ := unstructured.NestedString(content.Object, "spec", "sourceVolumeMode"); mode != "" {
			s.facts.Mode = corev1.PersistentVolumeMode(mode)
		}
	}
	if s.facts.Mode == corev1.PersistentVolumeBlock && source.Path != nil {
		s.trouble, _ = found(v1alpha1.ReasonInvalidVolume, "the VolumeSnapshot %s is of a block device without files, and its volume has a path: create the export anew without the path", obj.GetName())
		return s
	}
	restoreSize, _, _ := unstructured.NestedFieldNoCopy(obj.Object, "status", "restoreSize")
	size, err := resource.ParseQuantity(fmt.Sprint(restoreSize)) // it may be a number too
	if (err != nil || size.Sign() <= 0) && claim != nil {
		// What a driver may leave out. A claim can only have grown since.
		size, err = claim.Status.Capacity[corev1.ResourceStorage], nil
	}
	if err != nil || size.Sign() <= 0 {
		s.trouble, _ = found(v1alpha1.ReasonInvalidVolume, "the VolumeSnapshot %s doesn't say how large its volume is: restore it to a claim of your own, and create the export anew with that", obj.GetName())
	}
	s.facts.Size = size
	return s
}
