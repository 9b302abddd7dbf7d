//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDemo runs the demo, which checks each of its steps, and looks at what it
// says and leaves.
func TestDemo(t *testing.T) {
	anyTime.take(t)
	// The pod goes once its report was read; what it was at the end is seen by
	// watching it.
	watch := exec.CommandContext(t.Context(), "kubectl", "get", "pods", "-A", "-w", "-l", "nbdexport.io/export=vm-disk", "-o",
		`jsonpath={.status.containerStatuses[?(@.name=="nbdserver")].state.terminated.exitCode}{"\n"}`)
	var codes bytes.Buffer
	watch.Stdout = &codes
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("hack/demo.sh")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CLUSTER=current", "INSTALL=no", "CLIENT_IMAGE=localhost/nbd-client:dev")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("hack/demo.sh: %v", err)
	}
	// The disk, the first copy and the second one.
	sums := regexp.MustCompile(`(?m)^sha256    ([0-9a-f]{64})$`).FindAllSubmatch(out, -1)
	if len(sums) != 3 || string(sums[0][1]) != string(sums[1][1]) || string(sums[0][1]) != string(sums[2][1]) {
		t.Errorf("sha256 sums are %q, not three times the same", sums)
	}
	n := &namespace{t, "nbdexport-demo"}
	n.expect("vm-disk", map[string]string{
		".status.exit.condition": "vm-gone",
		".status.exit.reason":    "PodDeleted",
		".status.exit.clean":     "true",
	})
	if err := watch.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	watch.Wait()
	if got := strings.Fields(codes.String()); len(got) == 0 || slices.ContainsFunc(got, func(c string) bool { return c != "0" }) {
		t.Errorf("the server's exit codes are %q, not 0", got)
	}
	n.kubectl("delete", "namespace", n.name, within)
}
