//go:build e2e

package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// scratch is an export of 64 MiB of memory. Its drain has more time than any test.
const scratch = `
apiVersion: nbdexport.io/v1alpha1
kind: NBDExport
metadata: {name: e}
spec:
  volumes:
  - {name: scratch, source: {memory: {size: 64Mi}}, access: ReadWrite}
  exitWhen:
  - {name: asked-to, fileCreated: {path: /run/nbdexport/stop}}
  drain: {timeoutSeconds: 900, graceSeconds: 890}`

// drainedIn is scratch with other seconds for its drain.
func drainedIn(yaml string, timeout, grace int) string {
	return strings.Replace(yaml, "timeoutSeconds: 900, graceSeconds: 890", fmt.Sprintf("timeoutSeconds: %d, graceSeconds: %d", timeout, grace), 1)
}

// slowCopy reads the export in a client pod, a piece at a time, until the file
// /tmp/go-on lets it run free. It returns when the copy has begun; the result
// is sent when it has ended.
func (n *namespace) slowCopy(uri string) <-chan string {
	n.Helper()
	done := make(chan string, 1)
	go func() {
		out, err := exec.Command("kubectl", "-n", n.name, "exec", "client", "--", "sh", "-c",
			"nbdcopy '"+uri+"' - | { head -c 1048576; touch /tmp/begun; until [ -e /tmp/go-on ]; do sleep 0.1; done; cat; } | sha256sum").CombinedOutput()
		if err != nil {
			out = append(out, err.Error()...)
		}
		done <- string(out)
	}()
	n.eventually("the copy begins", func() bool {
		_, err := n.try("exec", "client", "--", "test", "-e", "/tmp/begun")
		return err == nil
	})
	return done
}

// The export is deleted while a copy is under way: the copy ends well, and then
// nothing is left.
func TestDeleteWhileCopying(t *testing.T) {
	n := newNamespace(t, anyTime)
	n.apply(scratch)
	n.client("e")
	uri := n.ready("e")
	want := n.fill(uri)
	copied := n.slowCopy(uri)
	n.kubectl("delete", "nbdexport", "e", "--wait=false")
	n.eventually("newcomers are refused", func() bool {
		_, err := n.try("exec", "client", "--", "timeout", "20", "nbdinfo", "--size", uri)
		return err != nil
	})
	n.sh("touch /tmp/go-on")
	if got := <-copied; strings.TrimSpace(got) != want {
		t.Errorf("the copy is %q, not %q", got, want)
	}
	n.eventually("export, pod and Service are gone", func() bool {
		out := n.kubectl("get", "nbdexport,pod,service", "-o", "name")
		return out == "pod/client"
	})
}

// The export's pod is deleted by hand while a copy is under way: it drains, the copy
// ends well, and another pod follows. When the export has ended none does.
func TestPodDeletedByHand(t *testing.T) {
	n := newNamespace(t, anyTime)
	n.apply(scratch + companion("while :; do sleep 1; done"))
	n.client("e")
	uri := n.ready("e")
	want := n.fill(uri)
	pod := n.field("e", ".status.podName")
	first := n.uid("pod", pod)
	copied := n.slowCopy(uri)
	n.kubectl("delete", "pod", pod, "--wait=false")
	n.says("e", "Replacing", pod)
	if got := n.uid("pod", pod); got != first {
		t.Errorf("another pod came before the first had drained")
	}
	n.sh("touch /tmp/go-on")
	if got := <-copied; strings.TrimSpace(got) != want {
		t.Errorf("the copy is %q, not %q", got, want)
	}
	n.eventually("another pod follows", func() bool {
		uid, err := n.tryRead("pod", pod, "{.metadata.uid}")
		return err == nil && uid != first
	})
	n.ready("e")
	n.expect("e", map[string]string{".status.exit": ""})

	n.kubectl("exec", pod, "-c", "companion", "--", "touch", "/run/nbdexport/stop")
	n.await("e", "Complete", "True")
	n.kubectl("delete", "pod", pod, within)
	// By the time that another export is served, the operator has seen that.
	n.apply(memory("next", "a"))
	n.await("next", "Ready", "True")
	if out := n.kubectl("get", "pod", pod, "--ignore-not-found"); out != "" {
		t.Errorf("an export that has ended has a new pod: %s", out)
	}
	n.expect("e", map[string]string{".status.exit.condition": "asked-to", ".status.exit.clean": "true"})
}

// A client that never leaves is cut off at the timeout. That is said, and the
// server, whose exit code makes the kubelet restart it, doesn't serve again.
func TestClientCutOff(t *testing.T) {
	n := newNamespace(t, anyTime)
	n.apply(drainedIn(scratch, 3, 1) + companion("while :; do sleep 1; done"))
	n.client("e")
	uri := n.ready("e")
	n.fill(uri)
	n.slowCopy(uri)
	n.kubectl("exec", n.field("e", ".status.podName"), "-c", "companion", "--", "touch", "/run/nbdexport/stop")
	n.await("e", "Complete", "True")
	n.await("e", "Failed", "True")
	if r := n.reason("e", "Failed"); r != "ClientsCutOff" {
		t.Errorf("Failed has reason %q", r)
	}
	n.expect("e", map[string]string{".status.exit.condition": "asked-to", ".status.exit.clean": "false"})
	n.eventually("the pod has succeeded", func() bool {
		return n.read("pod", n.field("e", ".status.podName"), "{.status.phase}") == "Succeeded"
	})
}
