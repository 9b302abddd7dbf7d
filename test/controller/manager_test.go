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
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// binary is the operator's program.
var binary = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(programs, "manager")
	if out, err := exec.Command("go", "build", "-o", bin, "../../cmd/manager").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return bin, nil
})

// manager is the operator's program, with no rights but those of its service account.
type manager struct {
	*testing.T
	cmd *exec.Cmd
	// probes and metrics are where it answers.
	probes, metrics string
	logFile         string
}

// startManager runs the operator's program with leader election, probes and protected
// metrics, as its Deployment does, and waits for it. It ends with the test.
func startManager(t *testing.T, flags ...string) *manager {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	m := &manager{T: t, probes: freeAddress(t), metrics: freeAddress(t), logFile: log.Name()}
	m.cmd = exec.CommandContext(t.Context(), bin, append([]string{"--leader-elect", "--health-probe-bind-address=" + m.probes, "--metrics-bind-address=" + m.metrics,
		"--server-image=nbdexport:test", "--leader-election-namespace=nbdexport-system"}, flags...)...)
	m.cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig(t, dir))
	m.cmd.Stdout, m.cmd.Stderr = log, log
	// Its end gives the lease to the manager of the next test.
	m.cmd.Cancel = func() error { return m.cmd.Process.Signal(syscall.SIGTERM) }
	m.cmd.WaitDelay = 10 * time.Second
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.cmd.Wait()
		if t.Failed() {
			t.Logf("the manager's log:\n%s", m.log())
		}
	})
	eventually(t, "the probe /readyz", func() string { return answer("http://"+m.probes+"/readyz", http.StatusOK) })
	eventually(t, "metrics without a token", func() string { return answer("https://"+m.metrics+"/metrics", http.StatusUnauthorized) })
	return m
}

// stop asks the manager to end, as the kubelet does, and waits until it has.
func (m *manager) stop() {
	m.Helper()
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		m.Fatal(err)
	}
	if err := m.cmd.Wait(); err != nil {
		m.Errorf("the manager's end: %v", err)
	}
}

// kill ends the manager without a word.
func (m *manager) kill() {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
}

// log is what the manager has written.
func (m *manager) log() string {
	m.Helper()
	text, err := os.ReadFile(m.logFile)
	if err != nil {
		m.Fatal(err)
	}
	return string(text)
}

// TestManager runs the operator's program. Its end, which SIGTERM asks for, leaves
// export pods alone.
func TestManager(t *testing.T) {
	w := &world{T: t, ns: namespace(t)}
	m := startManager(t)
	w.export("e", "volumes: [{name: a, source: {memory: {size: 1Mi}}}]\ntls: {mode: Disabled}")
	pod := w.pod("nbd-e", nil)
	w.serve(pod)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)

	m.stop()
	get(t, w.key("nbd-e"), pod)
	if !pod.DeletionTimestamp.IsZero() {
		t.Error("the end of the manager has deleted the pod")
	}
	if strings.Contains(m.log(), "orbidden") {
		t.Errorf("the manager lacks a right:\n%s", m.log())
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
