//go:build e2e

// Package e2e tests the whole on a real cluster: the one that KUBECONFIG names,
// in which the images of hack/image.sh are to be had. hack/test.sh starts one.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// root of the repository, seen from here.
const root = "../.."

// patience is how long tests wait for what has to happen. It has nothing to do with
// how long that may take: on a slow machine everything takes long, and
// what happens at last is right.
const patience = 5 * time.Minute

// within is patience for kubectl and helm.
const within = "--timeout=300s"

func TestMain(m *testing.M) {
	if os.Getenv("KUBECONFIG") == "" {
		fmt.Fprintln(os.Stderr, "e2e: KUBECONFIG is not set: run \"make test\", or start a cluster with hack/cluster/up.sh and set it to what that prints")
		os.Exit(1)
	}
	flag.Parse()
	if err := flag.Set("test.parallel", unlimited); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	// Without them, only the tests that need them fail.
	for _, node := range []string{"n2", "n3"} {
		if exec.Command("kubectl", "get", "node", node).Run() != nil {
			continue
		}
		if out, err := exec.Command("kubectl", "taint", "node", node, "--overwrite", faultTaint+"=:NoSchedule").CombinedOutput(); err != nil {
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

// newNamespace makes the namespace of a test, when it is its turn.
func newNamespace(t *testing.T, turn turn) *namespace {
	t.Helper()
	turn.take(t)
	return makeNamespace(t)
}

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
			// An export would wait for a copy that it was left with.
			n.try("delete", "pod", "client", "--ignore-not-found", "--wait=false")
		}
		// Kubernetes looks at a namespace again only after half the grace period of the
		// pods that it has found there.
		if out, err := n.try("delete", "nbdexport", "--all", within); err != nil {
			t.Errorf("the exports can't be deleted: %v\n%s", err, out)
		}
		if out, err := n.try("delete", "namespace", n.name, within); err != nil {
			t.Errorf("the namespace can't be deleted: %v\n%s", err, out)
		}
	})
	// Without it the API server refuses pods.
	n.eventually("the namespace has its service account", func() bool {
		_, err := n.tryRead("serviceaccount", "default", "{.metadata.name}")
		return err == nil
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
	ctx, cancel := context.WithTimeout(context.Background(), patience+time.Minute)
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

// eventually waits until a check holds. It looks often at first, and then less so: a
// check by kubectl is work.
func (n *namespace) eventually(what string, check func() bool) {
	n.Helper()
	began, pause := time.Now(), 50*time.Millisecond
	for !check() {
		if time.Since(began) > patience {
			n.Fatalf("%s: not within %v", what, patience)
		}
		time.Sleep(pause)
		pause = min(pause*5/4, time.Second)
	}
	n.Logf("%s, after %v", what, time.Since(began).Round(time.Millisecond))
}

// sh runs a shell command in the client pod.
func (n *namespace) sh(command string) string {
	n.Helper()
	return n.kubectl("exec", "client", "--", "sh", "-c", command)
}

// client starts the pod from which sh runs commands. It has the files that clients of
// the named exports need, those of the export e in /tls/e.
func (n *namespace) client(exports ...string) {
	n.Helper()
	mounts, volumes := "", ""
	for _, e := range exports {
		n.eventually("the Secret of clients of "+e+" is named", func() bool { return n.field(e, ".status.clientSecretName") != "" })
		mounts += "{name: " + e + ", mountPath: /tls/" + e + "},"
		volumes += "{name: " + e + ", secret: {secretName: " + n.field(e, ".status.clientSecretName") + "}},"
	}
	n.pod("client", "\n    volumeMounts: ["+mounts+"]", "\n  volumes: ["+volumes+"]")
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
	n.kubectl("wait", "--for=condition=Ready", "pod/"+name, within)
}

// ready waits until the export is Ready and the client pod reaches it, which is a
// moment later: its node has to learn of the Service. It returns the URI that works
// there.
func (n *namespace) ready(export string) string {
	n.Helper()
	n.await(export, "Ready", "True")
	uri := n.field(export, ".status.uri")
	if strings.HasPrefix(uri, "nbds:") {
		uri += "?tls-certificates=/tls/" + export
	}
	n.eventually("the client pod reaches "+uri, func() bool {
		_, err := n.try("exec", "client", "--", "nbdinfo", "--size", uri)
		return err == nil
	})
	return uri
}

// inTheClear is for the end of an export's spec.
const inTheClear = `
  tls: {mode: Disabled}`

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
