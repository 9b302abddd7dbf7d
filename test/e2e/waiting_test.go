//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// holds is what a pod needs to have the claim "data" mounted.
const holds = `
    volumeMounts: [{name: data, mountPath: /data}]`

const held = `
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]`

// A claim of a StorageClass that doesn't exist never gets a volume.
func TestClaimPending(t *testing.T) {
	n := newNamespace(t, anyTime)
	n.apply(claim("Filesystem") + `
  storageClassName: no-such-class`)
	n.apply(exportOfClaim("e", "ReadOnly"))
	n.says("e", "ClaimPending", "PersistentVolumeClaim data isn't bound", "kubectl describe pvc data")
}

// A claim for one pod only is another pod's; the export is served when that is
// gone.
func TestReadWriteOncePodClaimed(t *testing.T) {
	n := newNamespace(t, anyTime)
	n.apply(strings.Replace(claim("Filesystem"), "ReadWriteOnce", "ReadWriteOncePod", 1))
	n.pod("holder", holds, held)
	n.kubectl("exec", "holder", "--", "dd", "if=/dev/zero", "of=/data/disk.img", "bs=1M", "count=1")
	n.apply(exportOfClaim("e", "ReadWrite"))
	n.says("e", "ReadWriteOncePodClaimed", "pod holder on node n1 holds the PersistentVolumeClaim data", "the export starts when that pod is gone")
	n.kubectl("delete", "pod", "holder", within)
	n.await("e", "Ready", "True")
}

// A claim is in use on another node. An export that may run there does; one that
// may not says so.
func TestClaimInUseOnAnotherNode(t *testing.T) {
	n := newNamespace(t, secondNode)
	n.apply(claim("Filesystem"))
	n.pod("holder", holds, held+`
  nodeSelector: {kubernetes.io/hostname: n2}
  tolerations: [`+toleration+`]`)
	n.kubectl("exec", "holder", "--", "dd", "if=/dev/zero", "of=/data/disk.img", "bs=1M", "count=1")
	n.apply(exportOfClaim("follows", "ReadOnly"))
	n.await("follows", "Ready", "True")
	if node := n.node("follows"); node != "n2" {
		t.Errorf("the export is on %s", node)
	}
	n.apply(exportOfClaim("elsewhere", "ReadOnly") + `
  template: {nodeSelector: {kubernetes.io/hostname: n1}}`)
	n.says("elsewhere", "VolumeInUse", "on node n2 holds the PersistentVolumeClaim data", "can't run there")
}

// An image of the pod isn't to be had.
func TestImageMissing(t *testing.T) {
	n := newNamespace(t, anyTime)
	n.apply(memory("e", "a") + `
  template:
    containers: [{name: companion, image: registry.invalid/companion:1}]`)
	n.says("e", "ImagePullFailed", "registry.invalid/companion:1", "container companion", "correct its name")
}

// The third node leaves devices to root, as containerd does by default.
func TestDeviceAccessDenied(t *testing.T) {
	n := newNamespace(t, thirdNode)
	n.apply(claim("Block"))
	n.apply(exportOfClaim("e", "ReadWrite") + onThirdNode)
	n.says("e", "DeviceAccessDenied", "/dev/nbdexport/data", "user 65532", "node n3", "device_ownership_from_security_context")
}
