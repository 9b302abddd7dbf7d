//go:build e2e

package e2e

import (
	"os/exec"
	"testing"
)

// A snapshot is exported from a temporary claim, which is gone with its volume
// when the export has ended. There is no CSI driver in the cluster: the snapshot is
// written by hand, and what stands for its restored volume is an empty one.
func TestSnapshot(t *testing.T) {
	n := newNamespace(t, anyTime)
	n.kubectl("apply", "-f", root+"/test/controller/testdata/snapshot-crds.yaml")
	n.kubectl("wait", "--for=condition=Established", "crd/volumesnapshots.snapshot.storage.k8s.io", "crd/volumesnapshotcontents.snapshot.storage.k8s.io", within)
	t.Cleanup(func() {
		n.kubectl("delete", "-f", root+"/test/controller/testdata/snapshot-crds.yaml", within)
	})
	n.apply(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotContent
metadata: {name: e2e-monday}
spec: {sourceVolumeMode: Block}
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: monday}
status: {readyToUse: true, restoreSize: 64Mi, boundVolumeSnapshotContentName: e2e-monday}
---
apiVersion: nbdexport.io/v1alpha1
kind: NBDExport
metadata: {name: e}
spec:
  volumes:
  - {name: disk, source: {volumeSnapshot: {name: monday}}}
  exitWhen:
  - {name: asked-to, fileCreated: {path: /run/nbdexport/stop}}
  drain: {timeoutSeconds: 20}` + companion("while :; do sleep 0.1; done"))
	n.client("e")
	uri := n.ready("e")
	volume := n.kubectl("get", "pvc", "-o", "jsonpath={.items[*].spec.volumeName}")
	n.kubectl("delete", "volumesnapshot", "monday")
	if got := n.sh("nbdcopy '" + uri + "' - | wc -c"); got != "67108864" {
		t.Errorf("%s bytes", got)
	}
	n.kubectl("exec", "nbd-e", "-c", "companion", "--", "touch", "/run/nbdexport/stop")
	n.await("e", "Complete", "True")
	n.eventually("claim, finished pod and volume are gone", func() bool {
		_, err := exec.Command("kubectl", "get", "pv", volume).CombinedOutput()
		return n.kubectl("get", "pvc,pod", "-o", "name") == "pod/client" && err != nil
	})
	n.expect("e", map[string]string{".status.exit.condition": "asked-to", ".status.exit.clean": "true"})
}
