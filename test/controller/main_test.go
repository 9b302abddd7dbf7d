// Package controller_test runs the operator against a real API server and etcd.
// There is no kubelet and no scheduler: the tests play their part by writing
// the status of pods.
package controller_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/test/audit"
)

var (
	// kube reaches the API server as its administrator.
	kube client.WithWatch
	// operator is how the operator reaches the API server: with the rights that
	// config/rbac gives it, and no others.
	operator *rest.Config
	scheme   = runtime.NewScheme()
	// programs is a directory for what is built.
	programs string
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

// run starts an API server with the CRD in it, runs the tests and stops it.
func run(m *testing.M) (code int, err error) {
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		return 0, fmt.Errorf("these tests need a kube-apiserver and an etcd: set KUBEBUILDER_ASSETS to their directory (make test does)")
	}
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return 0, err
		}
	}
	if programs, err = os.MkdirTemp("", "nbdexport-"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(programs)
	env := &envtest.Environment{
		Scheme:                   scheme,
		CRDDirectoryPaths:        []string{filepath.Join("..", "..", "config", "crd")},
		ErrorIfCRDPathMissing:    true,
		BinaryAssetsDirectory:    assets,
		ControlPlaneStartTimeout: 2 * time.Minute,
	}
	ctrl.SetLogger(logr.Discard())
	// The 254 addresses of envtest are too few for the Services of all tests, which
	// nobody collects.
	env.ControlPlane.GetAPIServer().Configure().Set("service-cluster-ip-range", "10.0.0.0/16")
	dir, err := os.MkdirTemp("", "audit")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	requests, err := audit.Log(env, dir)
	if err != nil {
		return 0, err
	}
	admin, err := env.Start()
	if err != nil {
		return 0, fmt.Errorf("can't start the API server from %s: %w", assets, err)
	}
	defer func() {
		if serr := env.Stop(); err == nil {
			err = serr
		}
	}()
	// The client of the tests must not wait.
	admin.QPS, admin.Burst = -1, -1
	if kube, err = client.NewWithWatch(admin, client.Options{Scheme: scheme}); err != nil {
		return 0, err
	}
	kube = remembering(kube)
	if err := installRBAC(); err != nil {
		return 0, err
	}
	user, err := env.AddUser(envtest.User{Name: audit.Operator}, nil)
	if err != nil {
		return 0, err
	}
	operator = user.Config()
	// As cmd/manager has it: the API server's own fairness is what limits it.
	operator.QPS = -1
	// Most of these tests wait: for the API server, for a clock, for each other.
	// -parallel on the command line has the last word.
	if err := flag.Set("test.parallel", strconv.Itoa(4*goruntime.GOMAXPROCS(0))); err != nil {
		return 0, err
	}
	if code = m.Run(); code != 0 || !wholeRun() {
		return code, nil
	}
	unused, err := unusedRights(requests)
	if err == nil && len(unused) > 0 {
		err = fmt.Errorf("the operator has rights that it never used in these tests: take them from it, or test what needs them:\n%s", strings.Join(unused, "\n"))
	}
	if err != nil {
		return code, err
	}
	untested, err := untestedRules()
	if err == nil && len(untested) > 0 {
		err = fmt.Errorf("no test applies an object that these rules of the API refuse: add one to TestAdmission or its like:\n%s", strings.Join(untested, "\n"))
	}
	return code, err
}

// rbacFiles are the manifests with the operator's rights.
var rbacFiles = []string{
	"role", "role_binding", "leader_election_role", "leader_election_role_binding", "metrics_auth_role", "metrics_auth_role_binding",
}

// installRBAC gives the operator's service account its rights, out of the
// manifests.
func installRBAC() error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "nbdexport-system"}}
	if err := kube.Create(context.Background(), ns); err != nil {
		return err
	}
	for _, name := range rbacFiles {
		text, err := os.ReadFile(filepath.Join("..", "..", "config", "rbac", name+".yaml"))
		if err != nil {
			return err
		}
		var u unstructured.Unstructured
		if err := yaml.Unmarshal(text, &u.Object); err != nil {
			return fmt.Errorf("config/rbac/%s.yaml: %w", name, err)
		}
		if err := kube.Create(context.Background(), &u); err != nil {
			return fmt.Errorf("config/rbac/%s.yaml: %w", name, err)
		}
	}
	return nil
}
