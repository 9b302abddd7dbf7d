//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"
)

// The API server is away for a minute while a copy runs. The copy goes on, and
// afterwards all is as before: it's the same pod, ready, and the operator works.
func TestAPIServerDownWhileCopying(t *testing.T) {
	n := makeNamespace(t)
	n.apply(scratch)
	uri := n.here("e")
	want := n.fillHere(uri)
	identity := func() string {
		return n.read("pod", n.field("e", ".status.podName"), `{.metadata.uid} {.status.phase} {.status.containerStatuses[0].restartCount}`)
	}
	was := identity()
	copied := n.stream(uri, slowly)

	t.Cleanup(func() { n.machine("hack/cluster/apiserver.sh", "start") })
	n.machine("hack/cluster/apiserver.sh", "stop")
	if out, err := n.try("get", "--raw", "/readyz", "--request-timeout=2s"); err == nil {
		t.Errorf("the API server still answers: %s", out)
	}
	for range 6 {
		before := copied.read.Load()
		time.Sleep(10 * time.Second)
		if copied.read.Load() == before {
			t.Error("the copy stands still")
		}
	}
	n.machine("hack/cluster/apiserver.sh", "start")

	// It takes the rest of Kubernetes a while to notice. The other tests may wait for
	// that as well.
	t.Parallel()
	n.apply(strings.Replace(scratch, "{name: e}", "{name: new}", 1))
	n.here("new")
	n.here("e")
	if got := identity(); got != was {
		t.Errorf("the export's pod is %q, not %q", got, was)
	}
	copied.finish(n, want)
	n.expect("e", map[string]string{".status.exit": ""})
}
