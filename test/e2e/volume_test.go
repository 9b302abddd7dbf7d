//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

func claim(mode string) string {
	return `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  volumeMode: ` + mode + `
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 64Mi}}`
}

func exportOfClaim(name, access string) string {
	return `
apiVersion: nbdexport.io/v1alpha1
kind: NBDExport
metadata: {name: ` + name + `}
spec:
  volumes:
  - {name: data, source: {persistentVolumeClaim: {claimName: data}}, access: ` + access + `}
  drain: {timeoutSeconds: 20}`
}

// A Block claim is written through one export, and read through the next.
func TestBlockClaim(t *testing.T) {
	n := newNamespace(t, anyTime)
	n.client()
	n.apply(claim("Block"))
	n.apply(exportOfClaim("writer", "ReadWrite") + inTheClear)
	want := n.fill(n.ready("writer"))
	n.kubectl("delete", "nbdexport", "writer", within)

	n.apply(exportOfClaim("reader", "ReadOnly") + inTheClear)
	uri := n.ready("reader")
	if got := n.sh("nbdcopy '" + uri + "' - | sha256sum"); got != want {
		t.Errorf("read %q, not %q", got, want)
	}
	if out, err := n.try("exec", "client", "--", "qemu-io", "-f", "raw", "-c", "write 0 4k", uri); err == nil && !strings.Contains(out, "read-only") {
		t.Errorf("a read-only export was written to: %s", out)
	}
}

// A claim that isn't there is waited for, and a file that isn't in it is said.
func TestClaimMissing(t *testing.T) {
	n := newNamespace(t, anyTime)
	n.client()
	n.apply(exportOfClaim("e", "ReadOnly"))
	n.await("e", "Ready", "False")
	n.eventually("the reason is said", func() bool { return n.reason("e", "Ready") == "ClaimNotFound" })
	if pods := n.kubectl("get", "pods", "-o", "name"); pods != "pod/client" {
		t.Errorf("there are pods: %s", pods)
	}
	n.apply(claim("Filesystem"))
	n.eventually("the missing file is said", func() bool { return n.reason("e", "Ready") == "ServerFailed" })
	if m := n.field("e", condition("Ready", "message")); !strings.Contains(m, "disk.img") {
		t.Errorf("the message doesn't name the file: %s", m)
	}
}
