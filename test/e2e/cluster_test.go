//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// faultTaint keeps all pods off the second and third node but those of tests that do
// something to them.
const faultTaint = "nbdexport.io/e2e-faults"

// toleration is an entry of a pod's tolerations.
const toleration = "{key: " + faultTaint + ", operator: Exists}"

// onThirdNode is the template of an export that is to run on the third node.
const onThirdNode = `
  template:
    nodeSelector: {kubernetes.io/hostname: n3}
    tolerations: [` + toleration + `]`

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

// managers are the names of the operator's pods. One that is on its way out may still
// do its work.
func (n *namespace) managers() []string {
	n.Helper()
	return strings.Fields(n.manager("get", "pods", "-l", "app.kubernetes.io/component=manager", "-o", "jsonpath={.items[*].metadata.name}"))
}

// operators scales the operator, and waits until there are so many, and no others.
func (n *namespace) operators(replicas int) {
	n.Helper()
	n.manager("scale", "deployment/nbdexport-manager", "--replicas="+strconv.Itoa(replicas))
	n.rolledOut(replicas)
}

// rolledOut waits until a change of the operator is complete.
func (n *namespace) rolledOut(replicas int) {
	n.Helper()
	n.manager("rollout", "status", "deployment/nbdexport-manager", within)
	n.eventually("operators: "+strconv.Itoa(replicas), func() bool { return len(n.managers()) == replicas })
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

// inNode runs a command in the namespaces of a node, by its number.
func (n *namespace) inNode(node int, args ...string) string {
	n.Helper()
	b, err := os.ReadFile(filepath.Join(run(), "pids", "init-n"+strconv.Itoa(node)))
	if err != nil {
		n.Fatalf("the cluster isn't one of hack/cluster: %v", err)
	}
	init, _, _ := strings.Cut(string(b), " ")
	return n.machine("nsenter", append([]string{"-t", init, "-m", "-u", "-n", "-i", "-p", "--"}, args...)...)
}

// processes are those of a pod's container, in whatever namespace. They are known by
// their cgroup, which is named after the container.
func (n *namespace) processes(namespace, pod, container string) (all []*os.Process) {
	n.Helper()
	id := n.kubectl("-n", namespace, "get", "pod", pod, "-o", `jsonpath={.status.containerStatuses[?(@.name=="`+container+`")].containerID}`)
	_, id, _ = strings.Cut(id, "containerd://")
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil || id == "" {
		n.Fatalf("the container %s of %s has no id (%v)", container, pod, err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err != nil || !strings.Contains(string(b), id) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil {
			continue
		}
		if p, err := os.FindProcess(pid); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// kill kills processes as the OOM killer does.
func (n *namespace) kill(all []*os.Process) {
	n.Helper()
	killed := 0
	for _, p := range all {
		if p.Kill() == nil {
			killed++
		}
	}
	if killed == 0 {
		n.Fatalf("there is none of the processes %v", all)
	}
}
