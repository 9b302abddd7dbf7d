package controllers

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// holder is a pod that has a claim which can be in use on one node only.
type holder struct {
	claim string
	mode  corev1.PersistentVolumeAccessMode
	pod   *corev1.Pod
}

// holders are the pods that limit where the export's pod can run: those which
// are on a node, haven't finished, and use a claim that can't be shared between
// nodes. They come in the order of the export's volumes.
func (o *observed) holders() []holder {
	var out []holder
	for _, name := range claimNames(o.export) {
		claim := o.claims[name]
		if claim == nil {
			continue
		}
		mode, exclusive := exclusiveMode(claim)
		if !exclusive {
			continue
		}
		users := o.users[name]
		for i := range users {
			if users[i].Spec.NodeName != "" && !finished(&users[i]) {
				out = append(out, holder{name, mode, &users[i]})
			}
		}
	}
	return out
}

// exclusiveMode tells whether a claim can be in use on one node only.
func exclusiveMode(c *corev1.PersistentVolumeClaim) (corev1.PersistentVolumeAccessMode, bool) {
	modes := c.Spec.AccessModes
	switch {
	case slices.Contains(modes, corev1.ReadWriteOncePod):
		return corev1.ReadWriteOncePod, true
	case slices.Contains(modes, corev1.ReadWriteMany):
		return "", false
	case slices.Contains(modes, corev1.ReadWriteOnce):
		return corev1.ReadWriteOnce, true
	}
	return "", false
}

// follow is what the export's pod takes over from its surroundings: the
// node of the pods that hold its claims and what those tolerate there, and the
// modes of the claims.
func (o *observed) follow() desired.Facts {
	f := desired.Facts{Modes: map[string]corev1.PersistentVolumeMode{}}
	for _, claims := range []map[string]*corev1.PersistentVolumeClaim{o.claims, o.temporary} {
		for name, claim := range claims {
			f.Modes[name] = corev1.PersistentVolumeFilesystem
			if isBlockClaim(claim) {
				f.Modes[name] = corev1.PersistentVolumeBlock
			}
		}
	}
	for _, h := range o.holders() {
		f.Node = h.pod.Spec.NodeName
		f.Tolerations = append(f.Tolerations, h.pod.Spec.Tolerations...)
	}
	return f
}

// heldElsewhere finds a pod on another node that has a claim of the export's pod
// in use, whose server never ran: on this node the claim can't be had.
func heldElsewhere(o *observed) (finding, bool) {
	node := o.pod.Spec.NodeName
	if node == "" || serverRan(o.pod) {
		return finding{}, false
	}
	for _, h := range o.holders() {
		if h.pod.Spec.NodeName != node && comesFirst(h.pod, o.pod) {
			return found(v1alpha1.ReasonVolumeInUse, "the pod %s on node %s holds the PersistentVolumeClaim %s, and the export's pod was put onto node %s: it can't start before the claim is free",
				h.pod.Name, h.pod.Spec.NodeName, h.claim, node)
		}
	}
	return finding{}, false
}

// mayFollow tells whether a pod that can't start gets its claims on another node
// for sure: all who hold them are on one, and stay.
func (o *observed) mayFollow(pod *corev1.Pod) bool {
	holders := o.holders()
	return !slices.ContainsFunc(holders, func(h holder) bool {
		return h.pod.Spec.NodeName == pod.Spec.NodeName || h.pod.Spec.NodeName != holders[0].pod.Spec.NodeName ||
			!h.pod.DeletionTimestamp.IsZero()
	})
}

// comesFirst tells whether the export's pod has to give way to a holder. Of
// the pods of two exports, neither of which has started, the younger does: they
// would follow each other for ever.
func comesFirst(holder, pod *corev1.Pod) bool {
	if _, ours := holder.Labels[v1alpha1.LabelExport]; !ours || serverRan(holder) {
		return true
	}
	if !holder.CreationTimestamp.Equal(&pod.CreationTimestamp) {
		return holder.CreationTimestamp.Before(&pod.CreationTimestamp)
	}
	return holder.Name < pod.Name
}
