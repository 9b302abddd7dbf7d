package desired

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// SnapshotGroup is the API group of VolumeSnapshots.
const SnapshotGroup = "snapshot.storage.k8s.io"

// SnapshotFacts are what a temporary claim depends on beside its export.
type SnapshotFacts struct {
	// Size is what the restored volume has to have at least, in bytes.
	Size resource.Quantity
	// Mode is whether it is a block device.
	Mode corev1.PersistentVolumeMode
	// StorageClass is its class; empty for the cluster's default.
	StorageClass string
}

// TemporaryClaim is the claim to which the snapshot of a volume is restored. The
// volume has to have a snapshot as its source.
//
// It is ReadWriteOnce although nobody writes it: every driver that can restore a
// snapshot can do so to a ReadWriteOnce claim, while many refuse to make a
// ReadOnlyMany one, and no second pod is to have it. What keeps clients from
// writing is the volume's access.
func TemporaryClaim(e *v1alpha1.NBDExport, v v1alpha1.Volume, f SnapshotFacts) *corev1.PersistentVolumeClaim {
	group, isController := SnapshotGroup, true
	claim := &corev1.PersistentVolumeClaim{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: e.Namespace,
			Name:      TemporaryClaimName(e.Name, v.Name),
			Labels:    Labels(e.Name),
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "NBDExport", Name: e.Name, UID: e.UID, Controller: &isController,
			}},
		},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			VolumeMode:  &f.Mode,
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: f.Size}},
			DataSourceRef: &corev1.TypedObjectReference{
				APIGroup: &group, Kind: "VolumeSnapshot", Name: v.Source.VolumeSnapshot.Name,
			},
		},
	}
	if f.StorageClass != "" {
		claim.Spec.StorageClassName = &f.StorageClass
	}
	return claim
}

// RestoredFrom tells whether a claim is restored from the snapshot of a volume.
func RestoredFrom(claim *corev1.PersistentVolumeClaim, v v1alpha1.Volume) bool {
	from := claim.Spec.DataSourceRef
	return from != nil && from.APIGroup != nil && *from.APIGroup == SnapshotGroup && from.Kind == "VolumeSnapshot" &&
		from.Name == v.Source.VolumeSnapshot.Name
}
