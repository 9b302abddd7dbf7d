package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/test/audit"
)

const (
	// root is the repository, seen from here.
	root = "../.."
	// managerNamespace is where the manager's Deployment is.
	managerNamespace = "nbdexport-system"
)

// cluster is an API server with its etcd.
type cluster struct {
	env *envtest.Environment
	// admin is a way to it without limits, which API priority and fairness exempts.
	admin *rest.Config
	kube  client.Client
	// audit is the file with all requests of the manager.
	audit string
	// kubeconfig is the manager's.
	kubeconfig string
}

// newScheme has all kinds that the benchmark deals with.
func newScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(s); err != nil {
		return nil, err
	}
	return s, v1alpha1.AddToScheme(s)
}

// startCluster starts an API server with the CRD and the manager's rights in it.
// Files go to dir.
func startCluster(ctx context.Context, dir string) (*cluster, error) {
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		return nil, fmt.Errorf("a kube-apiserver and an etcd are needed: run hack/cluster/build.sh envtest, and set KUBEBUILDER_ASSETS to their directory (make bench-scale does)")
	}
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	c := &cluster{
		env: &envtest.Environment{
			Scheme:                   scheme,
			CRDDirectoryPaths:        []string{filepath.Join(root, "config", "crd")},
			ErrorIfCRDPathMissing:    true,
			BinaryAssetsDirectory:    assets,
			ControlPlaneStartTimeout: 2 * time.Minute,
		},
		kubeconfig: filepath.Join(dir, "kubeconfig"),
	}
	if c.audit, err = audit.Log(c.env, dir); err != nil {
		return nil, err
	}
	// Each export has a Service with an address.
	c.env.ControlPlane.GetAPIServer().Configure().Set("service-cluster-ip-range", "10.96.0.0/12")
	if c.admin, err = c.env.Start(); err != nil {
		return nil, fmt.Errorf("can't start the API server from %s: %w", assets, err)
	}
	c.admin.QPS, c.admin.Burst = -1, -1
	if err := c.install(ctx, scheme); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

func (c *cluster) stop() error { return c.env.Stop() }

// install makes the manager's namespace, its rights out of the manifests, and the
// file by which it gets to the API server. Its groups are those of a service
// account: API priority and fairness goes by them.
func (c *cluster) install(ctx context.Context, scheme *runtime.Scheme) (err error) {
	if c.kube, err = client.New(c.admin, client.Options{Scheme: scheme}); err != nil {
		return err
	}
	if err := c.kube.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: managerNamespace}}); err != nil {
		return err
	}
	for _, name := range []string{"role", "role_binding", "leader_election_role", "leader_election_role_binding"} {
		var u unstructured.Unstructured
		if err := readYAML(filepath.Join(root, "config", "rbac", name+".yaml"), &u.Object); err != nil {
			return err
		}
		if err := c.kube.Create(ctx, &u); err != nil {
			return fmt.Errorf("config/rbac/%s.yaml: %w", name, err)
		}
	}
	user, err := c.env.AddUser(envtest.User{Name: audit.Operator,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + managerNamespace}}, nil)
	if err != nil {
		return err
	}
	kubeconfig, err := user.KubeConfig()
	if err != nil {
		return err
	}
	return os.WriteFile(c.kubeconfig, kubeconfig, 0o600)
}

// readYAML reads one object from a file.
func readYAML(file string, into any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
