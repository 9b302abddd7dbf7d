// Package packaging_test installs the operator into a real API server, by one
// file and by Helm, and has Prometheus' own tool read alerts and dashboard.
// Nothing runs there: what has to be seen running is in test/e2e.
package packaging_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// root of the repository, seen from here.
const root = "../.."

// assets is where kube-apiserver, etcd, kubectl and promtool are.
var assets = os.Getenv("KUBEBUILDER_ASSETS")

func TestMain(m *testing.M) {
	if assets == "" {
		fmt.Fprintln(os.Stderr, "these tests need a kube-apiserver, an etcd and kubectl: set KUBEBUILDER_ASSETS to their directory (make test does)")
		os.Exit(1)
	}
	ctrl.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

// cluster is an API server of the test's own.
type cluster struct {
	*testing.T
	env *envtest.Environment
	// kubeconfig is a file with which its administrator reaches it.
	kubeconfig string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{T: t, env: &envtest.Environment{
		BinaryAssetsDirectory: assets,
		// It is not the speed of the machine that is tested.
		ControlPlaneStartTimeout: 2 * time.Minute,
	}}
	if _, err := c.env.Start(); err != nil {
		t.Fatalf("can't start the API server from %s: %v", assets, err)
	}
	t.Cleanup(func() {
		if err := c.env.Stop(); err != nil {
			t.Error(err)
		}
	})
	c.kubeconfig = c.user("admin", "system:masters")
	return c
}

// user writes down how a user of these groups reaches the API server.
func (c *cluster) user(name string, groups ...string) string {
	c.Helper()
	user, err := c.env.AddUser(envtest.User{Name: name, Groups: groups}, nil)
	if err != nil {
		c.Fatal(err)
	}
	text, err := user.KubeConfig()
	if err != nil {
		c.Fatal(err)
	}
	file := filepath.Join(c.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		c.Fatal(err)
	}
	return file
}

// kubectl runs kubectl; it must succeed.
func (c *cluster) kubectl(args ...string) string {
	c.Helper()
	return run(c.T, c.command(filepath.Join(assets, "kubectl"), args...))
}

// helm runs helm as it is for somebody who has configured nothing.
func (c *cluster) helm(args ...string) string {
	c.Helper()
	cmd := c.command("hack/helm.sh", args...)
	home := c.TempDir()
	cmd.Env = append(cmd.Env, "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	return run(c.T, cmd)
}

// command is a program at the top of the repository that reaches the cluster.
func (c *cluster) command(name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(c.Context(), 10*time.Minute) // helm may have to be built
	c.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.kubeconfig)
	return cmd
}

// run runs a command that has to succeed, and returns its standard output.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), err, out, stderr.String())
	}
	return string(out)
}

// eventually asks until there is nothing more to complain about.
func eventually(t *testing.T, what string, ask func() (complaint string)) {
	t.Helper()
	complaint := "never asked"
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if complaint = ask(); complaint == "" {
			return
		}
	}
	t.Fatalf("%s: %s", what, complaint)
}
