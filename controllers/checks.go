package controllers

import (
	"fmt"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// finding is why an export is or isn't ready.
type finding struct {
	reason  string
	message string
}

// check looks at one thing, and tells what it found if that decides.
type check func(*observed) (finding, bool)

// firstOf runs checks in their order until one has found something.
func firstOf(checks []check, o *observed) (finding, bool) {
	for _, c := range checks {
		if f, found := c(o); found {
			return f, true
		}
	}
	return finding{}, false
}

// found makes a check's answer.
func found(reason, format string, args ...any) (finding, bool) {
	return finding{reason, fmt.Sprintf(format, args...)}, true
}

// passing are the reasons which pass by themselves.
var passing = map[string]bool{
	v1alpha1.ReasonStarting: true,
	v1alpha1.ReasonNotReady: true,
	v1alpha1.ReasonDraining: true,
	// The others of snapshots don't.
	v1alpha1.ReasonSnapshotNotReady: true,
}

// nameChecks are made first: nothing is touched that belongs to somebody else.
var nameChecks = []check{podNameTaken, serviceNameTaken, configMapNameTaken, networkPolicyNameTaken, temporaryNameTaken, secretNameTaken, authorityNameTaken}

// claimChecks are made before a pod is.
var claimChecks = []check{
	invalidSelector, unwatchable, claimNotFound, claimDeleting, claimLost, pathOfBlockClaim, volumeTwice, claimInTemplate,
	temporaryDeleting, temporaryLost, unrestorable,
	usedByAnotherExport, readWriteOncePodClaimed, heldOnTwoNodes,
}

func podNameTaken(o *observed) (finding, bool) {
	if o.pod == nil || owned(o.export, o.pod) {
		return finding{}, false
	}
	if ofEarlierExport(o) {
		return found(v1alpha1.ReasonNameTaken, "the pod %s is that of an earlier export of the same name: a new one follows when it is gone", o.pod.Name)
	}
	return found(v1alpha1.ReasonNameTaken, "the pod %s isn't this export's: remove it, or give the export another name", o.pod.Name)
}

func serviceNameTaken(o *observed) (finding, bool) { return foreign(o, "Service", o.service) }

func configMapNameTaken(o *observed) (finding, bool) { return foreign(o, "ConfigMap", o.configMap) }

func networkPolicyNameTaken(o *observed) (finding, bool) {
	return foreign(o, "NetworkPolicy", o.networkPolicy)
}

// foreign finds that an object, if there is one, isn't the export's.
func foreign[P interface {
	comparable
	metav1.Object
}](o *observed, kind string, obj P) (finding, bool) {
	var none P
	if obj == none || owned(o.export, obj) {
		return finding{}, false
	}
	return found(v1alpha1.ReasonNameTaken, "the %s %s isn't this export's: remove it, or give the export another name", kind, obj.GetName())
}

func claimNotFound(o *observed) (finding, bool) {
	for _, name := range claimNames(o.export) {
		if o.claims[name] == nil {
			return found(v1alpha1.ReasonClaimNotFound, "the PersistentVolumeClaim %s doesn't exist: create it, the export then starts", name)
		}
	}
	return finding{}, false
}

func claimDeleting(o *observed) (finding, bool) {
	for _, name := range claimNames(o.export) {
		if c := o.claims[name]; c != nil && !c.DeletionTimestamp.IsZero() {
			return found(v1alpha1.ReasonClaimDeleting, "the PersistentVolumeClaim %s is being deleted, and no new pod may use it: create it anew when it is gone, the export then starts", name)
		}
	}
	return finding{}, false
}

func claimLost(o *observed) (finding, bool) {
	for _, name := range claimNames(o.export) {
		if c := o.claims[name]; c != nil && c.Status.Phase == corev1.ClaimLost {
			return found(v1alpha1.ReasonClaimLost, "the PersistentVolumeClaim %s has lost its volume %s: restore that, or create the claim anew", name, c.Spec.VolumeName)
		}
	}
	return finding{}, false
}

func pathOfBlockClaim(o *observed) (finding, bool) {
	for _, v := range o.export.Spec.Volumes {
		if s := v.Source.PersistentVolumeClaim; s != nil && s.Path != nil && o.isBlock(s.ClaimName) {
			return found(v1alpha1.ReasonInvalidVolume, "the volume %s has a path, but the PersistentVolumeClaim %s is a block device without files: take the path out of the spec", v.Name, s.ClaimName)
		}
	}
	return finding{}, false
}

// volumeTwice finds a device that is offered twice, which a pod can't have, and a
// file that is offered twice and written.
func volumeTwice(o *observed) (finding, bool) {
	for i, v := range o.export.Spec.Volumes {
		s := v.Source.PersistentVolumeClaim
		if s == nil {
			continue
		}
		for _, first := range o.export.Spec.Volumes[:i] {
			f := first.Source.PersistentVolumeClaim
			switch {
			case f == nil || f.ClaimName != s.ClaimName:
			case o.isBlock(s.ClaimName):
				return found(v1alpha1.ReasonInvalidVolume, "the volumes %s and %s are the same block device, PersistentVolumeClaim %s: take one of them out of the spec", first.Name, v.Name, s.ClaimName)
			case path.Clean(f.File()) == path.Clean(s.File()) && (first.GetAccess() == v1alpha1.ReadWrite || v.GetAccess() == v1alpha1.ReadWrite):
				return found(v1alpha1.ReasonInvalidVolume, "the volumes %s and %s are the same file, %s of the PersistentVolumeClaim %s, and one of them is ReadWrite: take one of them out of the spec, or make none of them ReadWrite", first.Name, v.Name, s.File(), s.ClaimName)
			}
		}
	}
	return finding{}, false
}

// claimInTemplate finds a claim that the pod would list twice: the kubelet waits
// for ever for such a one.
func claimInTemplate(o *observed) (finding, bool) {
	exported := append(claimNames(o.export), temporaryNames(o.export)...)
	for _, v := range o.export.Spec.GetTemplate().Volumes {
		if s := v.PersistentVolumeClaim; s != nil && slices.Contains(exported, s.ClaimName) {
			return found(v1alpha1.ReasonInvalidVolume, "the volume %s of the template is the PersistentVolumeClaim %s, which is exported, and no pod starts that has a claim twice: take this volume of the template out of the spec", v.Name, s.ClaimName)
		}
	}
	return finding{}, false
}

func readWriteOncePodClaimed(o *observed) (finding, bool) {
	for _, h := range o.holders() {
		if h.mode == corev1.ReadWriteOncePod {
			return found(v1alpha1.ReasonReadWriteOncePodClaimed, "the pod %s on node %s holds the PersistentVolumeClaim %s, which is ReadWriteOncePod: the export starts when that pod is gone", h.pod.Name, h.pod.Spec.NodeName, h.claim)
		}
	}
	return finding{}, false
}

func heldOnTwoNodes(o *observed) (finding, bool) {
	holders := o.holders()
	for _, h := range holders {
		if first := holders[0]; h.pod.Spec.NodeName != first.pod.Spec.NodeName {
			return found(v1alpha1.ReasonVolumeInUse, "ReadWriteOnce claims of this export are in use on two nodes: %s by the pod %s on node %s, %s by the pod %s on node %s: the export starts when one of the pods is gone",
				first.claim, first.pod.Name, first.pod.Spec.NodeName, h.claim, h.pod.Name, h.pod.Spec.NodeName)
		}
	}
	return finding{}, false
}

// isBlock tells whether a claim is a block device.
func (o *observed) isBlock(claim string) bool {
	c := o.claims[claim]
	return c != nil && isBlockClaim(c)
}

// isBlockClaim tells whether a claim is one.
func isBlockClaim(c *corev1.PersistentVolumeClaim) bool {
	return c.Spec.VolumeMode != nil && *c.Spec.VolumeMode == corev1.PersistentVolumeBlock
}
