//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"
)

// outOfService is the taint that an admin puts onto a node that certainly runs
// nothing any more (KEP-2268).
const outOfService = "node.kubernetes.io/out-of-service"

// The node of two exports is lost by a power cut. Their pods stay, for nobody knows
// whether they still run: no second one is made, and an export that is deleted
// waits. Once somebody who knows says that the node is out of service, one is
// served on another node and the other goes.
func TestNodeLost(t *testing.T) {
	const label = "nbdexport.io/e2e-lost"
	n := newNamespace(t, thirdNode)
	n.kubectl("label", "node", "n3", label+"=yes")
	quick := drainedIn(scratch, 1, 0) + onLabelled(label)
	n.apply(quick)
	n.apply(strings.Replace(quick, "{name: e}", "{name: deleted}", 1))
	n.here("e")
	n.here("deleted")
	pod := n.field("e", ".status.podName")
	uid := n.uid("pod", pod)
	if node := n.node("e"); node != "n3" {
		t.Fatalf("the export is on %s", node)
	}
	n.kubectl("label", "node", "n1", label+"=yes")

	t.Cleanup(func() {
		n.machine("hack/cluster/node-up.sh", "3")
		n.try("taint", "node", "n3", outOfService+"-") // it may not be there yet
		n.kubectl("wait", "--for=condition=Ready", "node/n3", within)
		n.kubectl("label", "node", "n1", "n3", label+"-")
	})
	n.machine("hack/cluster/node-down.sh", "3")
	n.kubectl("wait", "--for=condition=Ready=Unknown", "node/n3", within)
	n.says("e", "NodeUnreachable", "node n3", "out-of-service")
	n.kubectl("delete", "nbdexport", "deleted", "--wait=false")
	n.says("deleted", "NodeUnreachable", "was told to end", "node n3", "out-of-service")
	n.eventually("the time is over that the pod had to end", func() bool {
		at, err := time.Parse(time.RFC3339, n.read("pod", n.field("deleted", ".status.podName"), "{.metadata.deletionTimestamp}"))
		return err == nil && time.Now().After(at)
	})
	if got := n.uid("pod", pod); got != uid {
		t.Errorf("there is another pod, %s, while the first may still run", got)
	}
	n.says("deleted", "NodeUnreachable", "was told to end")

	n.kubectl("taint", "node", "n3", outOfService+"=nodeshutdown:NoExecute")
	n.kubectl("wait", "--for=delete", "nbdexport/deleted", within)
	n.eventually("another pod follows", func() bool {
		got, err := n.tryRead("pod", pod, "{.metadata.uid}")
		return err == nil && got != uid
	})
	n.here("e")
	if node := n.node("e"); node != "n1" {
		t.Errorf("the export is on %s", node)
	}
	n.expect("e", map[string]string{".status.exit": ""})
}
