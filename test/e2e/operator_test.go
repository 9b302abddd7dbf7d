//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"
)

// untilVM is an export of 64 MiB of memory that ends with the pod vm.
var untilVM = strings.Replace(scratch, "{name: asked-to, fileCreated: {path: /run/nbdexport/stop}}", "{name: vm-gone, podDeleted: {name: vm}}", 1)

// The operator is killed, and then away for a while, in which an exit condition
// comes true. A copy goes on all the time; when the operator is back it notices.
func TestOperatorKilledWhileCopying(t *testing.T) {
	n := newNamespace(t, theOperator)
	n.pod("vm", "", "")
	n.apply(untilVM)
	uri := n.here("e")
	want := n.fillHere(uri)
	pod := n.field("e", ".status.podName")
	uid := n.uid("pod", pod)
	copied := n.stream(uri, slowly)

	t.Cleanup(func() { n.operators(1) })
	n.kill(n.processes("nbdexport-system", n.managers()[0], "manager"))
	n.operators(0)
	n.kubectl("delete", "pod", "vm", within)
	before := copied.read.Load()
	n.eventually("the copy goes on without the operator", func() bool { return copied.read.Load() > before+1<<20 })
	n.expect("e", map[string]string{".status.exit": ""})

	n.operators(1)
	n.says("e", "Draining", "vm-gone")
	if got := n.uid("pod", pod); got != uid {
		t.Errorf("the export's pod is %s, not %s", got, uid)
	}
	copied.finish(n, want)
	n.await("e", "Complete", "True")
	n.expect("e", map[string]string{
		".status.exit.condition": "vm-gone",
		".status.exit.reason":    "PodDeleted",
		".status.exit.clean":     "true",
	})
}

// The operator gets another image, for itself and for export pods, while a copy
// runs. Pods that are there stay as they are; new ones have the new image.
func TestOperatorUpgradedWhileCopying(t *testing.T) {
	const from, to = "localhost/nbdexport:dev", "localhost/nbdexport:next"
	for _, node := range []int{1, 2, 3} { // as long as nobody does anything to them
		(&namespace{T: t}).inNode(node, "ctr", "-n", "k8s.io", "images", "tag", "--force", from, to)
	}
	n := newNamespace(t, theOperator)
	n.apply(scratch)
	uri := n.here("e")
	want := n.fillHere(uri)
	identity := func(export string) string {
		return n.read("pod", n.field(export, ".status.podName"), `{.metadata.uid} {.spec.containers[0].image} {.status.containerStatuses[0].restartCount}`)
	}
	was := identity("e")
	copied := n.stream(uri, slowly)

	upgrade := func(image string) {
		n.manager("patch", "deployment", "nbdexport-manager", "-p", `{"spec": {"template": {"spec": {"containers": [
			{"name": "manager", "image": "`+image+`", "env": [{"name": "NBDEXPORT_IMAGE", "value": "`+image+`"}]}]}}}}`)
		n.rolledOut(1)
	}
	t.Cleanup(func() { upgrade(from) })
	upgrade(to)
	n.apply(strings.Replace(scratch, "{name: e}", "{name: new}", 1))
	n.await("new", "Ready", "True")
	if got := identity("new"); !strings.Contains(got, to) {
		t.Errorf("the pod of a new export is %q, not of %s", got, to)
	}
	if got := identity("e"); got != was {
		t.Errorf("the export's pod is %q, not %q", got, was)
	}
	copied.finish(n, want)
	n.await("e", "Ready", "True")
}

// Of two operators one leads. Its pod is deleted, and the other takes over.
func TestTwoManagers(t *testing.T) {
	n := newNamespace(t, theOperator)
	n.apply(scratch)
	uri := n.here("e")
	want := n.fillHere(uri)
	copied := n.stream(uri, slowly)
	leader := func() string {
		pod, _, _ := strings.Cut(n.manager("get", "lease", "nbdexport-manager", "-o", "jsonpath={.spec.holderIdentity}"), "_")
		return pod
	}
	t.Cleanup(func() { n.operators(1) })
	n.operators(2)
	first := ""
	n.eventually("one of the two leads", func() bool {
		first = leader()
		return slices.Contains(n.managers(), first)
	})
	n.manager("delete", "pod", first, within)
	n.eventually("another one leads", func() bool {
		now := leader()
		return now != first && slices.Contains(n.managers(), now)
	})
	n.apply(strings.Replace(scratch, "{name: e}", "{name: new}", 1))
	n.await("new", "Ready", "True")
	copied.finish(n, want)
	n.await("e", "Ready", "True")
}
