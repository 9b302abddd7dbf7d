package packaging_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	crd   = "nbdexports.nbdexport.io"
	image = `jsonpath={.spec.template.spec.containers[0].image} {.spec.template.spec.containers[0].env[0].value}`
)

// TestOneFile applies the file that "make build-installer" makes, and again.
func TestOneFile(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	file := filepath.Join(t.TempDir(), "install.yaml")
	build := c.command("hack/installer.sh", file)
	build.Env = append(build.Env, "IMAGE=registry.example/nbdexport:v1")
	run(t, build)

	c.kubectl("apply", "-f", file)
	c.kubectl("wait", "--for=condition=Established", "crd/"+crd, "--timeout=2m")
	c.kubectl("apply", "-f", "config/samples/memory.yaml")
	if got := c.kubectl("-n", "nbdexport-system", "get", "deployment", "nbdexport-manager", "-o", image); got != "registry.example/nbdexport:v1 registry.example/nbdexport:v1" {
		t.Errorf("manager and servers have the images %q", got)
	}
	for line := range strings.Lines(c.kubectl("apply", "-f", file)) {
		if !strings.HasSuffix(line, " unchanged\n") {
			t.Errorf("applied again: %s", line)
		}
	}
}

// TestHelm goes through the life of a release: what it installs, what an upgrade
// changes, what stays when it goes.
func TestHelm(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	release := func(verb string, args ...string) string {
		t.Helper()
		return c.helm(append([]string{verb, "nbdexport", "charts/nbdexport", "--namespace=nbdexport-system"}, args...)...)
	}
	notes := release("install", "--create-namespace", "--set=image.repository=registry.example/nbdexport")
	for _, next := range []string{"kubectl -n nbdexport-system rollout status deployment/nbdexport-manager\n", "helm -n nbdexport-system test nbdexport\n"} {
		if !strings.Contains(notes, next) {
			t.Errorf("the notes don't say %q:\n%s", next, notes)
		}
	}
	c.kubectl("wait", "--for=condition=Established", "crd/"+crd, "--timeout=2m")
	c.kubectl("apply", "-f", "config/samples/memory.yaml")
	if got := c.kubectl("-n", "nbdexport-system", "get", "deployment", "nbdexport-manager", "-o", image); got != "registry.example/nbdexport:dev registry.example/nbdexport:dev" {
		t.Errorf("manager and servers have the images %q", got)
	}
	// What the notes say to apply.
	_, example, _ := strings.Cut(notes, "<<EOF\n")
	example, _, _ = strings.Cut(example, "\n  EOF")
	apply := c.command(filepath.Join(assets, "kubectl"), "create", "--dry-run=server", "--validate=strict", "-f", "-")
	apply.Stdin = strings.NewReader(example)
	run(t, apply)

	release("upgrade", "--reuse-values", "--set=replicas=2")
	if got := c.kubectl("-n", "nbdexport-system", "get", "deployment", "nbdexport-manager", "-o", "jsonpath={.spec.replicas} {.spec.template.spec.containers[0].image}"); got != "2 registry.example/nbdexport:dev" {
		t.Errorf("after the upgrade there are replicas and image %q", got)
	}

	c.helm("uninstall", "nbdexport", "--namespace=nbdexport-system")
	left := c.kubectl("get", "deployment,service,serviceaccount,role,rolebinding,clusterrole,clusterrolebinding", "-A", "-l", "helm.sh/chart", "-o", "name")
	if left != "" {
		t.Errorf("after the end of the release there are still:\n%s", left)
	}
	// What is deleted may be there for a moment more.
	if got := c.kubectl("get", "crd", crd, "-o", "jsonpath={.metadata.deletionTimestamp}"); got != "" {
		t.Errorf("the CRD went with the release, at %s", got)
	}
	if got := c.kubectl("get", "nbdexport", "-o", "name"); got != "nbdexport.nbdexport.io/memory\n" {
		t.Errorf("after the end of the release the exports are %q", got)
	}

	// The CRD that stayed is taken up again; and goes if it isn't to be kept.
	release("install", "--set=crds.keep=false")
	c.helm("uninstall", "nbdexport", "--namespace=nbdexport-system")
	c.kubectl("wait", "--for=delete", "crd/"+crd, "--timeout=2m")
}

// TestNamespaced installs the chart for one namespace and runs the manager as
// its Deployment does, with no rights but those that the chart gives. It serves
// that namespace, leaves others alone, and lacks nothing.
func TestNamespaced(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for _, ns := range []string{"served", "other"} {
		c.kubectl("create", "namespace", ns)
	}
	c.helm("install", "nbdexport", "charts/nbdexport", "--namespace=ops", "--create-namespace", "--set=watchNamespaces={served},metrics.enabled=false")
	c.kubectl("wait", "--for=condition=Established", "crd/"+crd, "--timeout=2m")
	// The one that it leaves alone is there first. One has no claim.
	for _, ns := range []string{"other", "served"} {
		c.kubectl("-n", ns, "apply", "-f", "config/samples/memory.yaml")
	}
	c.kubectl("-n", "served", "apply", "-f", "config/samples/block-claim.yaml")

	dir := t.TempDir()
	bin := filepath.Join(dir, "manager")
	run(t, c.command("go", "build", "-o", bin, "./cmd/manager"))
	args := strings.Fields(c.kubectl("-n", "ops", "get", "deployment", "nbdexport-manager", "-o", "jsonpath={.spec.template.spec.containers[0].args[*]}"))
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	// What a pod knows without being told, and a port that nobody else has.
	manager := exec.Command(bin, append(args, "--leader-election-namespace=ops", "--health-probe-bind-address=0")...)
	manager.Env = append(os.Environ(), "KUBECONFIG="+c.user("system:serviceaccount:ops:nbdexport-manager"), "NBDEXPORT_IMAGE=nbdexport:test")
	manager.Stdout, manager.Stderr = log, log
	if err := manager.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = manager.Process.Kill(); _ = manager.Wait() })

	said := func() string {
		text, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	eventually(t, "the export's pod", func() string {
		if got := c.kubectl("get", "pods", "-A", "-o", "jsonpath={.items[*].metadata.namespace}"); got != "served" {
			return "there are pods in the namespaces " + got + "; the manager says:\n" + said()
		}
		return ""
	})
	eventually(t, "the Event about the claim", func() string {
		if got := c.kubectl("-n", "served", "get", "events.events.k8s.io", "-o", "jsonpath={.items[*].reason}"); got != "ClaimNotFound" {
			return "there is " + got
		}
		return ""
	})
	if got := c.kubectl("-n", "other", "get", "nbdexport", "memory", "-o", "jsonpath={.status}"); got != "" {
		t.Errorf("the export in another namespace has the status %s", got)
	}
	if strings.Contains(said(), "orbidden") {
		t.Errorf("the manager lacks a right:\n%s", said())
	}
}
