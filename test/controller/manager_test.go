package controller_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestManager runs the operator's program as its Deployment does: with leader
// election, probes and protected metrics, and no rights but those of its service
// account. Its end, which SIGTERM asks for, leaves export pods alone.
func TestManager(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "manager")
	if out, err := exec.Command("go", "build", "-o", bin, "../../cmd/manager").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w := &world{T: t, ns: namespace(t)}
	probes, metrics := freeAddress(t), freeAddress(t)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "--leader-elect", "--health-probe-bind-address="+probes, "--metrics-bind-address="+metrics, "--server-image=nbdexport:test",
		"--leader-election-namespace=nbdexport-system")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig(t, dir))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("the manager's log:\n%s", text)
		}
	})

	eventually(t, "the probe /readyz", func() string { return answer("http://"+probes+"/readyz", http.StatusOK) })
	w.export("e", "volumes: [{name: a, source: {memory: {size: 1Mi}}}]\ntls: {mode: Disabled}")
	pod := w.pod("nbd-e", nil)
	w.serve(pod)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	eventually(t, "metrics without a token", func() string { return answer("https://"+metrics+"/metrics", http.StatusUnauthorized) })

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the manager's end: %v", err)
	}
	get(t, w.key("nbd-e"), pod)
	if !pod.DeletionTimestamp.IsZero() {
		t.Error("the end of the manager has deleted the pod")
	}
	text, err := os.ReadFile(log.Name())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "orbidden") {
		t.Errorf("the manager lacks a right:\n%s", text)
	}
}

// insecure takes the certificate that the manager made for itself.
var insecure = http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}

// answer complains unless a URL answers with a status.
func answer(url string, want int) string {
	res, err := insecure.Get(url)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	if res.StatusCode != want {
		return fmt.Sprintf("status %d, want %d", res.StatusCode, want)
	}
	return ""
}

// freeAddress is an address where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// kubeconfig writes down how the operator reaches the API server.
func kubeconfig(t *testing.T, dir string) string {
	t.Helper()
	c := clientcmdapi.NewConfig()
	c.Clusters["test"] = &clientcmdapi.Cluster{Server: operator.Host, CertificateAuthorityData: operator.CAData}
	c.AuthInfos["operator"] = &clientcmdapi.AuthInfo{ClientCertificateData: operator.CertData, ClientKeyData: operator.KeyData}
	c.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "operator"}
	c.CurrentContext = "test"
	file := filepath.Join(dir, "kubeconfig")
	if err := clientcmd.WriteToFile(*c, file); err != nil {
		t.Fatal(err)
	}
	return file
}
