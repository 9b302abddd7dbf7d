package controller_test

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// account makes a service account, and returns a token of it.
func (w *world) account(name string) string {
	w.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}}
	w.must(account)
	var request authenticationv1.TokenRequest
	if err := kube.SubResource("token").Create(context.Background(), account, &request); err != nil {
		w.Fatal(err)
	}
	return request.Status.Token
}

// page asks for the manager's metrics.
func (m *manager) page(token string) (status int, body string) {
	m.Helper()
	req, err := http.NewRequest(http.MethodGet, "https://"+m.metrics+"/metrics", nil)
	if err != nil {
		m.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := insecure.Do(req)
	if err != nil {
		m.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		m.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// TestManagerMetrics: the metrics are shown by HTTPS, and only to those who may read
// them; Prometheus' own tool has nothing against what they get.
func TestManagerMetrics(t *testing.T) {
	w := &world{T: t, ns: namespace(t)}
	reader, stranger := w.account("reader"), w.account("stranger")
	text, err := os.ReadFile("../../config/rbac/metrics_reader_role.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var role rbacv1.ClusterRole
	if err := yaml.Unmarshal(text, &role); err != nil {
		t.Fatal(err)
	}
	w.must(&role)
	t.Cleanup(func() { w.remove(&role) })
	w.must(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: w.ns},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "nbdexport-metrics-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: w.ns, Name: "reader"}},
	})

	m := startManager(t, "--namespaces="+w.ns)
	w.export("e", "volumes: [{name: a, source: {memory: {size: 1Mi}}}]\ntls: {mode: Disabled}")
	w.pod("nbd-e", nil)
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonStarting)

	for _, c := range []struct {
		who, token string
		want       int
	}{
		{"nobody", "", http.StatusUnauthorized},
		{"a stranger", stranger, http.StatusForbidden},
		{"a reader", reader, http.StatusOK},
	} {
		if status, body := m.page(c.token); status != c.want || (status == http.StatusOK) != strings.Contains(body, "nbdexport_build_info") {
			t.Errorf("%s gets status %d, want %d:\n%s", c.who, status, c.want, body)
		}
	}
	if status, body := m.page("x"); status < 400 || strings.Contains(body, "nbdexport_") {
		t.Errorf("somebody with a made-up token gets status %d:\n%s", status, body)
	}
	eventually(t, "the export in the metrics", func() string {
		_, body := m.page(reader)
		if want := `nbdexport_exports{condition="Ready",reason="Starting",status="False"} 1`; !strings.Contains(body, want) {
			return want + " isn't in\n" + body
		}
		return ""
	})
	_, body := m.page(reader)
	check := exec.Command(promtool(), "check", "metrics")
	check.Stdin = strings.NewReader(only(body, "nbdexport_"))
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool (if it is missing: hack/deps.sh interop): %v\n%s", err, out)
	}

	if res, err := http.Get("http://" + m.metrics + "/metrics"); err == nil {
		defer res.Body.Close()
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("plain HTTP is answered with %s", res.Status)
		}
	}
	for _, c := range []struct {
		offer []string
		want  string
	}{{[]string{"h2", "http/1.1"}, "http/1.1"}, {[]string{"h2"}, ""}} {
		conn, err := tls.Dial("tcp", m.metrics, &tls.Config{InsecureSkipVerify: true, NextProtos: c.offer})
		if err != nil {
			if c.want != "" {
				t.Error(err)
			}
			continue
		}
		if got := conn.ConnectionState().NegotiatedProtocol; got != c.want || c.want == "" {
			t.Errorf("offered %v, got %q", c.offer, got)
		}
		conn.Close()
	}
}

// only leaves of a page the metrics whose names begin so.
func only(page, prefix string) string {
	var out strings.Builder
	for line := range strings.Lines(page) {
		if strings.HasPrefix(strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE "), prefix) {
			out.WriteString(line)
		}
	}
	return out.String()
}

// promtool is where hack/deps.sh puts Prometheus' tool, or in the path.
func promtool() string {
	if path, err := exec.LookPath("promtool"); err == nil {
		return path
	}
	return filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "promtool")
}
