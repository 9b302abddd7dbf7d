package desired

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

const (
	// scratchVolume has the changes to CopyOnWrite volumes, those of each in files
	// without names.
	scratchVolume = "nbdexport-scratch"
	scratchDir    = "/scratch"
)

// CopiesOnWrite tells whether an export has a CopyOnWrite volume. The server of such
// a one can't be started again or replaced under its clients: they would find
// the volume turned back.
func CopiesOnWrite(e *v1alpha1.NBDExport) bool {
	return slices.ContainsFunc(e.Spec.Volumes, func(v v1alpha1.Volume) bool { return v.GetAccess() == v1alpha1.CopyOnWrite })
}

// restartPolicy is what the kubelet does about a server that ends.
func restartPolicy(e *v1alpha1.NBDExport) corev1.RestartPolicy {
	if CopiesOnWrite(e) {
		return corev1.RestartPolicyNever
	}
	return corev1.RestartPolicyOnFailure
}

// scratch is the pod's volume for the scratches, and where the server has it. No
// other container has it: what they put there would be room that clients were
// promised.
//
// It has no limit of its own, for the server keeps to the limits that it is told. The
// kubelet can't see files without names, unless the node has project quotas, and
// then it counts the file system's own blocks too: it would evict the pod of a
// client that has used up what it may.
func scratch() (*corev1ac.VolumeApplyConfiguration, *corev1ac.VolumeMountApplyConfiguration) {
	return corev1ac.Volume().WithName(scratchVolume).WithEmptyDir(corev1ac.EmptyDirVolumeSource()),
		corev1ac.VolumeMount().WithName(scratchVolume).WithMountPath(scratchDir)
}

// requestScratch asks for room on the node's disk for all scratches, unless the
// template says something about that.
func requestScratch(e *v1alpha1.NBDExport, r *corev1ac.ResourceRequirementsApplyConfiguration) {
	for _, list := range []*corev1.ResourceList{r.Requests, r.Limits} {
		if list == nil {
			continue
		}
		if _, said := (*list)[corev1.ResourceEphemeralStorage]; said {
			return
		}
	}
	var sum resource.Quantity
	for _, v := range e.Spec.Volumes {
		sum.Add(v.Scratch.GetSizeLimit()) // zero unless CopyOnWrite
	}
	requests := corev1.ResourceList{corev1.ResourceEphemeralStorage: sum}
	if r.Requests != nil {
		maps.Copy(requests, *r.Requests)
	}
	r.WithRequests(requests)
}
