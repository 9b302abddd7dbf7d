//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"
)

// fileClaim is an export of 64 MiB, a file on the claim "data", that runs where
// the label says.
func fileClaim(name, label string) string {
	return strings.Replace(exportOfClaim(name, "ReadWrite"), "timeoutSeconds: 20", "timeoutSeconds: 900, graceSeconds: 890", 1) + onLabelled(label)
}

// onLabelled is the template of an export that runs on nodes with a label.
func onLabelled(label string) string {
	return `
  template:
    nodeSelector: {` + label + `: "yes"}
    tolerations: [` + toleration + `]`
}

// A node is drained as its admins do it. A copy that is under way ends well; a
// client that never leaves holds nobody up beyond the drain's bound; the export
// that may run elsewhere does, and the one whose claim is on the node waits until
// the node is back, and says why.
func TestNodeDrained(t *testing.T) {
	const label = "nbdexport.io/e2e-drain"
	n := newNamespace(t, secondNode)
	n.kubectl("label", "node", "n2", label+"=yes")
	t.Cleanup(func() {
		n.kubectl("uncordon", "n2")
		n.kubectl("label", "node", "n1", "n2", label+"-")
	})
	n.apply(claim("Filesystem"))
	n.pod("writer", holds, held+`
  nodeSelector: {`+label+`: "yes"}
  tolerations: [`+toleration+`]`)
	n.kubectl("exec", "writer", "--", "dd", "if=/dev/zero", "of=/data/disk.img", "bs=1M", "count=64")
	n.kubectl("delete", "pod", "writer", within)
	n.apply(fileClaim("stays", label))
	n.apply(drainedIn(scratch, 3, 1) + onLabelled(label))
	stays := n.here("stays")
	want := n.fillHere(stays)
	copied := n.stream(stays, slowly)
	lingers := n.stream(n.here("e"), time.Hour)
	moving := n.uid("pod", n.field("e", ".status.podName"))

	n.kubectl("label", "node", "n1", label+"=yes")
	drained := make(chan string, 1)
	began := time.Now()
	go func() {
		out, err := n.try("drain", "n2", "--ignore-daemonsets", "--delete-emptydir-data", within)
		if err != nil {
			out += err.Error()
		}
		drained <- out
	}()
	n.says("stays", "Replacing", "nbd-stays was told to end", "Evict")
	n.eventually("the other export has another pod", func() bool {
		uid, err := n.tryRead("pod", n.field("e", ".status.podName"), "{.metadata.uid}")
		return err == nil && uid != moving
	})
	n.here("e")
	if node := n.node("e"); node != "n1" {
		t.Errorf("the other export is on %s", node)
	}
	select {
	case out := <-drained:
		t.Errorf("the node was drained while a copy was under way: %s", out)
	default:
	}
	copied.finish(n, want)
	if out := <-drained; !strings.Contains(out, "node/n2 drained") {
		t.Errorf("kubectl drain, after %v: %s", time.Since(began), out)
	}
	if got := lingers.sum(); !strings.Contains(got, "exit status") {
		t.Errorf("the client that never left: %s", got)
	}

	n.says("stays", "Unschedulable", "nbd-stays", "node(s) were unschedulable")
	n.kubectl("uncordon", "n2")
	again := n.stream(n.here("stays"), 0)
	if node := n.node("stays"); node != "n2" {
		t.Errorf("the export of the claim is on %s", node)
	}
	again.finish(n, want)
	n.expect("stays", map[string]string{".status.exit": ""})
}
