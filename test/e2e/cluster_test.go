//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// faultTaint keeps all pods off the second node but those of tests that do
// something to it.
const faultTaint = "nbdexport.io/e2e-faults"

// toleration is an entry of a pod's tolerations.
const toleration = "{key: " + faultTaint + ", operator: Exists}"

// onSecondNode is the template of an export that is to run on the second node.
const onSecondNode = `
  template:
    nodeSelector: {kubernetes.io/hostname: n2}
    tolerations: [` + toleration + `]`

// secondNode is held by the test that uses the second node.
var secondNode sync.Mutex

// newNamespaceOnSecondNode is newNamespace for a test that uses the second node.
func newNamespaceOnSecondNode(t *testing.T) *namespace {
	t.Helper()
	t.Parallel()
	secondNode.Lock()
	// When the namespace has gone, and with it the pods.
	t.Cleanup(secondNode.Unlock)
	return makeNamespace(t)
}

// operator is held by the test that does something to the operator. To the others
// it makes no difference but a few seconds: that is what it is tested for.
var operator sync.Mutex

func newNamespaceWithOperator(t *testing.T) *namespace {
	t.Helper()
	t.Parallel()
	operator.Lock()
	t.Cleanup(operator.Unlock)
	return makeNamespace(t)
}

// tryManager runs kubectl in the operator's namespace.
func tryManager(args ...string) (string, error) {
	return (&namespace{name: "nbdexport-system"}).try(args...)
}

// manager runs kubectl in the operator's namespace; it must succeed. It may be
// used for clean-up.
func (n *namespace) manager(args ...string) string {
	n.Helper()
	out, err := tryManager(args...)
	if err != nil {
		n.Errorf("kubectl -n nbdexport-system %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// managers are the names of the operator's pods that aren't on their way out.
func (n *namespace) managers() []string {
	n.Helper()
	return strings.Fields(n.manager("get", "pods", "-l", "app.kubernetes.io/component=manager", "-o",
		`go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}} {{end}}{{end}}`))
}

// run is the state folder of the cluster, which has to be one of hack/cluster.
func run() string { return filepath.Dir(os.Getenv("KUBECONFIG")) }

// machine runs a command on the machine that the cluster is on.
func (n *namespace) machine(name string, args ...string) string {
	n.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "NBDEXPORT_RUN="+run())
	out, err := cmd.CombinedOutput()
	if err != nil {
		n.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// inNode runs a command in the namespaces of a node, 1 or 2.
func (n *namespace) inNode(node int, args ...string) string {
	n.Helper()
	b, err := os.ReadFile(filepath.Join(run(), "pids", "init-n"+strconv.Itoa(node)))
	if err != nil {
		n.Fatalf("the cluster isn't one of hack/cluster: %v", err)
	}
	init, _, _ := strings.Cut(string(b), " ")
	return n.machine("nsenter", append([]string{"-t", init, "-m", "-u", "-n", "-i", "-p", "--"}, args...)...)
}

// kill kills all processes of a pod's container as the OOM killer does. They are
// known by their cgroup, which is named after the container.
func (n *namespace) kill(ns, pod, container string) {
	n.Helper()
	id := n.kubectl("-n", ns, "get", "pod", pod, "-o", `jsonpath={.status.containerStatuses[?(@.name=="`+container+`")].containerID}`)
	_, id, _ = strings.Cut(id, "containerd://")
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil || id == "" {
		n.Fatalf("the container %s of %s has no id (%v)", container, pod, err)
	}
	killed := 0
	for _, f := range files {
		if b, err := os.ReadFile(f); err != nil || !strings.Contains(string(b), id) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err == nil && syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	if killed == 0 {
		n.Fatalf("the container %s of %s has no process", container, pod)
	}
}

// uid identifies an object.
func (n *namespace) uid(kind, name string) string {
	n.Helper()
	return n.kubectl("get", kind, name, "-o", "jsonpath={.metadata.uid}")
}

// says waits until the condition Ready of an export is false for a reason, with a
// message that has words in it, and returns the message.
func (n *namespace) says(export, reason string, words ...string) string {
	n.Helper()
	const ready = `.status.conditions[?(@.type=="Ready")]`
	message := ""
	n.eventually(export+" says "+reason+": ... "+strings.Join(words, " ... "), func() bool {
		out, err := n.try("get", "nbdexport", export, "-o", "jsonpath={"+ready+".status} {"+ready+".reason} {"+ready+".message}")
		var is bool
		if message, is = strings.CutPrefix(out, "False "+reason+" "); err != nil || !is {
			return false
		}
		for _, w := range words {
			if !strings.Contains(message, w) {
				return false
			}
		}
		return true
	})
	n.Logf("%s: %s: %s", export, reason, message)
	return message
}
