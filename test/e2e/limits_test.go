//go:build e2e

package e2e

import (
	"testing"
	"time"
)

// Limits are changed while a client is connected. They come to the server by the
// kubelet: no new pod, nobody is disconnected.
func TestLimitsChanged(t *testing.T) {
	n := newNamespace(t, anyTime)
	n.client()
	n.apply(scratch + inTheClear)
	uri := n.ready("e")
	want := n.fill(uri)
	pod := n.field("e", ".status.podName")
	uid := n.uid("pod", pod)
	copied := n.stream(n.here("e"), slowly)
	limits := func(json string) {
		t.Helper()
		n.kubectl("patch", "nbdexport", "e", "--type=json", "-p", `[{"op": "add", "path": "/spec/limits", "value": `+json+`}]`)
	}
	admitted := func() bool {
		_, err := n.try("exec", "client", "--", "timeout", "20", "nbdinfo", "--size", uri)
		return err == nil
	}

	limits(`{"connections": 1}`)
	n.eventually("a second client is refused", func() bool { return !admitted() })
	limits(`{"connections": 8}`)
	n.eventually("a second client is let in", admitted)
	limits(`{"allowedClientCIDRs": ["192.0.2.0/24"]}`)
	n.eventually("no client is let in", func() bool { return !admitted() })
	limits(`{"bytesPerSecond": "12Mi"}`)
	n.eventually("clients are let in again", admitted)

	// 64 MiB at 12 MiB in a second, of which two seconds' worth may have gathered.
	began := time.Now()
	n.sh("qemu-io -r -f raw -c 'read 0 32M' -c 'read 32M 32M' '" + uri + "'")
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("64 MiB took %v", took)
	}
	copied.finish(n, want)
	if got := n.uid("pod", pod); got != uid || n.restarts(pod) != "0" {
		t.Errorf("the export's pod is %s, not %s, or its server was started again", got, uid)
	}
	n.await("e", "Ready", "True")
}
