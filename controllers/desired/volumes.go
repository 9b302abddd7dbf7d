package desired

import (
	"fmt"
	"path"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// runVolume is the pod's shared directory, v1alpha1.RunDir.
const runVolume = "nbdexport-run"

// configVolume is the export's ConfigMap.
const configVolume = "nbdexport-config"

// runLimit bounds what containers can put into the shared directory. A pod that
// goes beyond it is evicted.
var runLimit = resource.MustParse("64Mi")

func runMount() *corev1ac.VolumeMountApplyConfiguration {
	return corev1ac.VolumeMount().WithName(runVolume).WithMountPath(v1alpha1.RunDir)
}

// claimOf is the claim that a volume is on, and which file of it is offered if it
// isn't a block device. The claim is empty for a volume that isn't on one.
func claimOf(e *v1alpha1.NBDExport, v v1alpha1.Volume) (claim, file string) {
	switch s := v.Source; {
	case s.PersistentVolumeClaim != nil:
		return s.PersistentVolumeClaim.ClaimName, s.PersistentVolumeClaim.File()
	case s.VolumeSnapshot != nil:
		return TemporaryClaimName(e.Name, v.Name), s.VolumeSnapshot.File()
	}
	return "", ""
}

// volumes are the pod's volumes, and where the server has them. A claim is one
// volume of the pod even if several of its files are exported: the kubelet waits
// for ever for a claim that is listed twice.
//
// Only the mount is read-only unless a volume is ReadWrite, not the claim's volume: a
// claim that another pod writes would be attached or mounted in a different way,
// which a ReadWriteOnce volume doesn't allow on one node.
func volumes(e *v1alpha1.NBDExport, modes map[string]corev1.PersistentVolumeMode) (
	vols []*corev1ac.VolumeApplyConfiguration,
	mounts []*corev1ac.VolumeMountApplyConfiguration,
	devices []*corev1ac.VolumeDeviceApplyConfiguration,
	err error,
) {
	vols = append(vols, corev1ac.Volume().WithName(runVolume).
		WithEmptyDir(corev1ac.EmptyDirVolumeSource().WithSizeLimit(runLimit)))
	mounts = append(mounts, runMount())
	// As a directory: a file that is mounted by itself would never change.
	vols = append(vols, corev1ac.Volume().WithName(configVolume).
		WithConfigMap(corev1ac.ConfigMapVolumeSource().WithName(ChildName(e.Name))))
	mounts = append(mounts, corev1ac.VolumeMount().WithName(configVolume).WithMountPath(configDir).WithReadOnly(true))
	if CopiesOnWrite(e) {
		vol, mount := scratch()
		vols, mounts = append(vols, vol), append(mounts, mount)
	}
	if e.Spec.TLS.Enabled() {
		vols = append(vols, tlsVolume(e))
		mounts = append(mounts, corev1ac.VolumeMount().WithName(tlsVolumeName).WithMountPath(tlsDir).WithReadOnly(true))
	}
	names := map[string]string{}
	for _, v := range e.Spec.Volumes {
		claim, _ := claimOf(e, v)
		if claim == "" {
			continue
		}
		name, ok := names[claim]
		if !ok {
			name = fmt.Sprintf("nbdexport-claim-%d", len(names))
			names[claim] = name
			vols = append(vols, corev1ac.Volume().WithName(name).
				WithPersistentVolumeClaim(corev1ac.PersistentVolumeClaimVolumeSource().WithClaimName(claim)))
		}
		if modes[claim] == corev1.PersistentVolumeBlock {
			devices = append(devices, corev1ac.VolumeDevice().
				WithName(name).WithDevicePath(path.Join(deviceRoot, v.Name)))
			continue
		}
		m := corev1ac.VolumeMount().WithName(name).WithMountPath(path.Join(fileRoot, v.Name))
		if v.GetAccess() != v1alpha1.ReadWrite {
			m.WithReadOnly(true)
		}
		mounts = append(mounts, m)
	}
	for _, v := range e.Spec.GetTemplate().Volumes {
		ac, err := convert[corev1ac.VolumeApplyConfiguration](v)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("spec.template.volumes: %s: %w", v.Name, err)
		}
		vols = append(vols, ac)
	}
	return vols, mounts, devices, nil
}
