//go:build e2e

// Package e2e tests the whole on a real cluster: the one that KUBECONFIG names,
// in which the images of hack/image.sh are to be had. hack/test.sh starts one.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// root of the repository, seen from here.
const root = "../.."

func TestMain(m *testing.M) {
	if os.Getenv("KUBECONFIG") == "" {
		fmt.Fprintln(os.Stderr, "e2e: KUBECONFIG is not set: run \"make test\", or start a cluster with hack/cluster/up.sh and set it to what that prints")
		os.Exit(1)
	}
	// Without a second node, only the tests that need it fail.
	if exec.Command("kubectl", "get", "node", "n2").Run() == nil {
		if out, err := exec.Command("kubectl", "taint", "node", "n2", "--overwrite", faultTaint+"=:NoSchedule").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "e2e: kubectl taint: %v\n%s", err, out)
			os.Exit(1)
		}
	}
	cmd := exec.Command("hack/deploy.sh")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "e2e: hack/deploy.sh: %v\n%s", err, out)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// namespace is a test's own, under the strictest Pod Security Standard.
type namespace struct {
	*testing.T
	name string
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	t.Parallel()
	return makeNamespace(t)
}

// makeNamespace is newNamespace for a test that has the cluster for itself: those
// that are parallel wait for it.
func makeNamespace(t *testing.T) *namespace {
	t.Helper()
	n := &namespace{t, "e2e-" + strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))}
	n.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: ` + n.name + `, labels: {pod-security.kubernetes.io/enforce: restricted}}`)
	t.Cleanup(func() {
		if t.Failed() {
			n.describe()
		}
		// Kubernetes looks at a namespace again only after half the grace period of the
		// pods that it has found there.
		if out, err := n.try("delete", "nbdexport", "--all", "--timeout=60s"); err != nil {
			t.Errorf("the exports can't be deleted: %v\n%s", err, out)
		}
		if out, err := n.try("delete", "namespace", n.name, "--timeout=60s"); err != nil {
			t.Errorf("the namespace can't be deleted: %v\n%s", err, out)
		}
	})
	return n
}

// describe prints what a person would look at first.
func (n *namespace) describe() {
	for _, args := range [][]string{
		{"get", "nbdexport,pod,pvc,service,events.events.k8s.io"},
		{"get", "nbdexport", "-o", "yaml"},
		{"describe", "pod,pvc"},
		{"logs", "-l", "app.kubernetes.io/managed-by=nbdexport", "-c", "nbdserver", "--tail=50"},
	} {
		out, _ := n.try(args...)
		n.Logf("kubectl %s\n%s", strings.Join(args, " "), out)
	}
	out, _ := exec.Command("kubectl", "-n", "nbdexport-system", "logs", "deployment/nbdexport-manager", "--tail=50").CombinedOutput()
	n.Logf("manager\n%s", out)
}

// try runs kubectl in the namespace.
func (n *namespace) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "kubectl", append([]string{"-n", n.name}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// kubectl runs kubectl in the namespace; it must succeed.
func (n *namespace) kubectl(args ...string) string {
	n.Helper()
	out, err := n.try(args...)
	if err != nil {
		n.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (n *namespace) apply(yaml string) {
	n.Helper()
	cmd := exec.Command("kubectl", "-n", n.name, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(yaml)
	if out, err := cmd.CombinedOutput(); err != nil {
		n.Fatalf("kubectl apply: %v\n%s\n%s", err, out, yaml)
	}
}

// await waits until an export's condition has a status, "True" or "False".
func (n *namespace) await(export, condition, status string) {
	n.Helper()
	n.kubectl("wait", "--for=condition="+condition+"="+status, "nbdexport/"+export, "--timeout=180s")
}

// field reads a field of an export, by JSONPath without its braces.
func (n *namespace) field(export, path string) string {
	n.Helper()
	return n.kubectl("get", "nbdexport", export, "-o", "jsonpath={"+path+"}")
}

// reason is the reason of one of an export's conditions.
func (n *namespace) reason(export, condition string) string {
	n.Helper()
	return n.field(export, `.status.conditions[?(@.type=="`+condition+`")].reason`)
}

// expect checks fields of an export.
func (n *namespace) expect(export string, want map[string]string) {
	n.Helper()
	for path, w := range want {
		if got := n.field(export, path); got != w {
			n.Errorf("%s of %s is %q, not %q", path, export, got, w)
		}
	}
}

// eventually waits until a check holds.
func (n *namespace) eventually(what string, check func() bool) {
	n.Helper()
	began := time.Now()
	for !check() {
		if time.Since(began) > 3*time.Minute {
			n.Fatalf("%s: not within 3 minutes", what)
		}
		time.Sleep(200 * time.Millisecond)
	}
	n.Logf("%s, after %v", what, time.Since(began).Round(time.Millisecond))
}

// sh runs a shell command in the client pod.
func (n *namespace) sh(command string) string {
	n.Helper()
	return n.kubectl("exec", "client", "--", "sh", "-c", command)
}

// client starts the pod from which sh runs commands.
func (n *namespace) client() {
	n.Helper()
	n.pod("client", "", "")
}

// pod starts a pod that does nothing. What is given in YAML is added to its
// container and to its spec.
func (n *namespace) pod(name, container, spec string) {
	n.Helper()
	n.apply(`
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  securityContext: {runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: client
    image: localhost/nbd-client:dev
    imagePullPolicy: IfNotPresent
    command: [sleep, "3600"]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}` + container + spec)
	n.kubectl("wait", "--for=condition=Ready", "pod/"+name, "--timeout=180s")
}

// ready waits until the export is Ready and a client reaches it, which is a
// moment later: its node has to learn of the Service. It returns the URI.
func (n *namespace) ready(export string) string {
	n.Helper()
	n.await(export, "Ready", "True")
	uri := n.field(export, ".status.uri")
	n.eventually("a client reaches "+uri, func() bool {
		_, err := n.try("exec", "client", "--", "nbdinfo", "--size", uri)
		return err == nil
	})
	return uri
}

// companion is the template of an export with one extra container that runs a
// shell command.
func companion(command string) string {
	return `
  template:
    containers:
    - name: companion
      image: localhost/nbd-client:dev
      imagePullPolicy: IfNotPresent
      command: [sh, -c, 'trap "exit 0" TERM; ` + command + `']`
}
