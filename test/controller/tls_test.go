package controller_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// secured is an export about whose TLS nothing is said.
const secured = "volumes: [{name: a, source: {memory: {size: 1Mi}}}]\n"

// secret waits for a Secret other than the one given.
func (w *world) secret(name string, not *corev1.Secret) *corev1.Secret {
	w.Helper()
	s := &corev1.Secret{}
	eventually(w.T, "the Secret "+name+" should be there, and new", func() string {
		if err := kube.Get(context.Background(), w.key(name), s); err != nil {
			return err.Error()
		}
		if not != nil && s.ResourceVersion == not.ResourceVersion {
			return "it is still the old one"
		}
		return ""
	})
	return s
}

// secrets are the names of the Secrets in the namespace.
func (w *world) secrets() []string {
	w.Helper()
	var list corev1.SecretList
	if err := kube.List(context.Background(), &list, client.InNamespace(w.ns)); err != nil {
		w.Fatal(err)
	}
	var out []string
	for _, s := range list.Items {
		out = append(out, s.Name)
	}
	return out
}

// leaf is the certificate in a Secret, which must fit its key.
func leaf(t *testing.T, s *corev1.Secret, who string) *x509.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(s.Data[who+"-cert.pem"], s.Data[who+"-key.pem"])
	if err != nil {
		t.Fatalf("the Secret %s: %v", s.Name, err)
	}
	return pair.Leaf
}

// trusts fails unless who has a Secret trusts the certificate in another.
func trusts(t *testing.T, s *corev1.Secret, c *x509.Certificate, host string, usage x509.ExtKeyUsage, now time.Time) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.Data["ca-cert.pem"])
	if _, err := c.Verify(x509.VerifyOptions{Roots: pool, DNSName: host, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: now}); err != nil {
		t.Errorf("%s: %v", s.Name, err)
	}
}

// TestTLS makes an export about whose TLS nothing is said, and another one beside it.
func TestTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.export("e", secured)
	pod := w.pod("nbd-e", nil)
	e := w.read("e")
	ca, server, clients := w.secret("nbdexport-ca", nil), w.secret("nbd-e-server", nil), w.secret("nbd-e-client", nil)
	for role, s := range map[string]*corev1.Secret{"ca": ca, "server": server, "client": clients} {
		if s.Labels["nbdexport.io/tls"] != role || metav1.IsControlledBy(s, e) != (role != "ca") || len(s.OwnerReferences) > 1 {
			t.Errorf("%s: labels %v, owners %v", s.Name, s.Labels, s.OwnerReferences)
		}
		if role != "ca" && (s.Labels[v1alpha1.LabelExport] != "e" || len(s.Data) != 3 || !bytes.Equal(s.Data["ca-cert.pem"], ca.Data["ca-cert.pem"])) {
			t.Errorf("%s: labels %v, %d keys", s.Name, s.Labels, len(s.Data))
		}
		if s.CreationTimestamp.After(pod.CreationTimestamp.Time) {
			t.Errorf("the Secret %s was made after the pod that needs it", s.Name)
		}
	}
	var svc corev1.Service
	get(t, w.key("nbd-e"), &svc)
	for _, host := range []string{"nbd-e", "nbd-e." + w.ns, "nbd-e." + w.ns + ".svc", "nbd-e." + w.ns + ".svc.cluster.local", "localhost", svc.Spec.ClusterIP} {
		trusts(t, clients, leaf(t, server, "server"), host, x509.ExtKeyUsageServerAuth, time.Now())
	}
	trusts(t, server, leaf(t, clients, "client"), "", x509.ExtKeyUsageClientAuth, time.Now())

	args := strings.Join(pod.Spec.Containers[0].Args, " ")
	want := "--tls require --tls-certificates /etc/nbdexport-tls --tls-verify-peer --tls-allow-san URI:" + leaf(t, clients, "client").URIs[0].String()
	if !strings.Contains(args, want) {
		t.Errorf("the server is told %s\nwithout %s", args, want)
	}
	i := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == "nbdexport-tls" })
	if s := pod.Spec.Volumes[i].Secret; s == nil || s.SecretName != "nbd-e-server" || *s.DefaultMode != 0o440 {
		t.Errorf("the volume with the certificates: %+v", s)
	}
	w.serve(pod)
	e = w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	if ptr.Deref(e.Status.ClientSecretName, "") != "nbd-e-client" || ptr.Deref(e.Status.URI, "") != "nbds://nbd-e."+w.ns+".svc:10809/a" || e.Status.Volumes[0].URI != *e.Status.URI {
		t.Errorf("status: %+v", e.Status)
	}

	w.export("f", secured)
	w.pod("nbd-f", nil)
	other := w.secret("nbd-f-client", nil)
	trusts(t, server, leaf(t, other, "client"), "", x509.ExtKeyUsageClientAuth, time.Now())
	if u := leaf(t, other, "client").URIs[0].String(); strings.Contains(args, u) {
		t.Errorf("the server lets the client of another export in, %s", u)
	}
	untouched(t, ca, &corev1.Secret{})

	var list eventsv1.EventList
	if err := kube.List(context.Background(), &list, client.InNamespace(w.ns)); err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal([]any{list.Items, w.read("e").Status, w.read("f").Status})
	if bytes.Contains(text, []byte("BEGIN")) {
		t.Errorf("PEM is told: %s", text)
	}
}

// TestTLSClientAuthNone gives clients nothing but what they need to know the server.
func TestTLSClientAuthNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.export("e", secured+"tls: {clientAuth: None}")
	args := strings.Join(w.pod("nbd-e", nil).Spec.Containers[0].Args, " ")
	if !strings.Contains(args, "--tls require") || strings.Contains(args, "--tls-verify-peer") || strings.Contains(args, "--tls-allow-san") {
		t.Errorf("the server is told %s", args)
	}
	s := w.secret("nbd-e-client", nil)
	if len(s.Data) != 1 {
		t.Errorf("%d keys in the client's Secret", len(s.Data))
	}
	trusts(t, s, leaf(t, w.secret("nbd-e-server", nil), "server"), "localhost", x509.ExtKeyUsageServerAuth, time.Now())
}

// TestTLSDisabled makes nothing.
func TestTLSDisabled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	running(w)
	if s := w.secrets(); len(s) > 0 {
		t.Errorf("Secrets: %v", s)
	}
	if e := w.read("e"); e.Status.ClientSecretName != nil {
		t.Errorf("clientSecretName %s", ptr.Deref(e.Status.ClientSecretName, ""))
	}
}

// TestTLSForeignSecrets finds Secrets of somebody else under each of the names, and
// leaves them alone. It starts when they are gone.
func TestTLSForeignSecrets(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"nbdexport-ca", "nbd-e-server", "nbd-e-client"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			foreign := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}, StringData: map[string]string{"ca-cert.pem": "x"}}
			w.must(foreign)
			w.export("e", secured)
			e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonNameTaken)
			says(t, message(e, v1alpha1.ConditionReady), "the Secret "+name, "remove it, or")
			w.noPod()
			untouched(t, foreign, &corev1.Secret{})
			if s := w.secrets(); len(s) != 1 {
				t.Errorf("Secrets: %v", s)
			}
			w.remove(foreign)
			wake(w, e, "1")
			w.pod("nbd-e", nil)
		})
	}
}

// TestTLSRotation takes an export through sixty days, and through the succession of
// its authority. Its pod stays as it is.
func TestTLSRotation(t *testing.T) {
	t.Parallel()
	w, clock := newWorldOnClock(t)
	begin := clock.Now()
	w.export("e", secured)
	pod := w.pod("nbd-e", nil)
	w.serve(pod)
	e := w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	ca, server, clients := w.secret("nbdexport-ca", nil), w.secret("nbd-e-server", nil), w.secret("nbd-e-client", nil)
	const day = 24 * time.Hour
	turn := 0
	after := func(d time.Duration) time.Time {
		clock.SetTime(begin.Add(d))
		turn++
		wake(w, e, fmt.Sprint(turn))
		return clock.Now()
	}

	after(50 * day)
	w.settled("a")
	for _, s := range []*corev1.Secret{ca, server, clients} {
		untouched(t, s, &corev1.Secret{})
	}
	now := after(61 * day)
	server2, clients2 := w.secret("nbd-e-server", server), w.secret("nbd-e-client", clients)
	untouched(t, ca, &corev1.Secret{})
	for _, c := range []*x509.Certificate{leaf(t, server2, "server"), leaf(t, clients2, "client")} {
		if left := c.NotAfter.Sub(now); left < 89*day {
			t.Errorf("the new certificate of %v is valid for %v", c.Subject, left)
		}
	}
	if bytes.Equal(server.Data["server-key.pem"], server2.Data["server-key.pem"]) {
		t.Error("the key is the old one")
	}
	// Whoever has old files gets on with whoever has new ones.
	trusts(t, clients, leaf(t, server2, "server"), "localhost", x509.ExtKeyUsageServerAuth, now)
	trusts(t, server2, leaf(t, clients, "client"), "", x509.ExtKeyUsageClientAuth, now)

	now = after((8*365 + 1) * day)
	ca2 := w.secret("nbdexport-ca", ca)
	server3 := w.secret("nbd-e-server", server2)
	if n := strings.Count(string(server3.Data["ca-cert.pem"]), "BEGIN"); n != 2 {
		t.Errorf("%d authorities are trusted when a successor is prepared", n)
	}
	trusts(t, clients, leaf(t, server3, "server"), "localhost", x509.ExtKeyUsageServerAuth, now)

	now = after((9*365 + 2) * day)
	w.secret("nbdexport-ca", ca2)
	server4, clients4 := w.secret("nbd-e-server", server3), w.secret("nbd-e-client", nil)
	eventually(t, "the successor should sign the client's certificate", func() string {
		get(t, client.ObjectKeyFromObject(clients4), clients4)
		if !leaf(t, clients4, "client").NotAfter.After(now) {
			return "it is an old one"
		}
		return ""
	})
	trusts(t, clients4, leaf(t, server4, "server"), "localhost", x509.ExtKeyUsageServerAuth, now)
	trusts(t, server3, leaf(t, clients4, "client"), "", x509.ExtKeyUsageClientAuth, now)
	if bytes.Equal(leaf(t, server4, "server").RawIssuer, leaf(t, server3, "server").RawIssuer) {
		t.Error("the predecessor still signs")
	}

	is := &corev1.Pod{}
	get(t, client.ObjectKeyFromObject(pod), is)
	if is.UID != pod.UID || is.Generation != pod.Generation || !is.DeletionTimestamp.IsZero() {
		t.Error("the pod was touched")
	}
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
}

// TestTLSSecretsCorrected gives Secrets back what somebody has changed, and makes those
// anew that somebody has deleted.
func TestTLSSecretsCorrected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.export("e", secured)
	pod := w.pod("nbd-e", nil)
	for what, change := range map[string]func(*corev1.Secret){
		"a key of another": func(s *corev1.Secret) {
			s.Data["server-key.pem"] = w.secret("nbd-e-client", nil).Data["client-key.pem"]
		},
		"no certificate": func(s *corev1.Secret) { delete(s.Data, "server-cert.pem") },
		"a label less":   func(s *corev1.Secret) { delete(s.Labels, "nbdexport.io/tls") },
		"a key more":     func(s *corev1.Secret) { s.Data["notes"] = []byte("x") },
	} {
		was := w.secret("nbd-e-server", nil)
		change(was)
		if err := kube.Update(context.Background(), was); err != nil {
			t.Fatal(err)
		}
		is := w.secret("nbd-e-server", was)
		if leaf(t, is, "server"); len(is.Data) != 3 || is.Labels["nbdexport.io/tls"] != "server" {
			t.Errorf("%s: %v, %d keys", what, is.Labels, len(is.Data))
		}
	}
	was := w.secret("nbd-e-client", nil)
	w.remove(was)
	w.secret("nbd-e-client", was)

	// Without the authority, there is a new one, and all that it signs.
	ca, server, clients := w.secret("nbdexport-ca", nil), w.secret("nbd-e-server", nil), w.secret("nbd-e-client", nil)
	w.remove(ca)
	w.secret("nbdexport-ca", ca)
	server, clients = w.secret("nbd-e-server", server), w.secret("nbd-e-client", clients)
	trusts(t, clients, leaf(t, server, "server"), "localhost", x509.ExtKeyUsageServerAuth, time.Now())
	untouched(t, pod, &corev1.Pod{})
}

// TestTLSAuthorityDamaged neither starts with an authority that can't be read nor
// replaces it, and goes on with what is there.
func TestTLSAuthorityDamaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.export("e", secured)
	pod := w.pod("nbd-e", nil)
	w.serve(pod)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	ca, server := w.secret("nbdexport-ca", nil), w.secret("nbd-e-server", nil)
	ca.Data["ca-key.pem"] = server.Data["server-key.pem"]
	if err := kube.Update(context.Background(), ca); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the export should say what is wrong", func() string {
		m := message(w.read("e"), v1alpha1.ConditionReady)
		if !strings.Contains(m, "clients can connect, but the authority in the Secret nbdexport-ca can't be used: ca-key.pem isn't the key") {
			return m
		}
		return ""
	})
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	w.export("f", secured)
	e := w.expect("f", v1alpha1.ConditionReady, no, v1alpha1.ReasonTLSSecretInvalid)
	says(t, message(e, v1alpha1.ConditionReady), "Secret nbdexport-ca", "restore it, or delete it")
	w.settled("e")
	untouched(t, ca, &corev1.Secret{})
	untouched(t, server, &corev1.Secret{})
	w.remove(ca)
	w.pod("nbd-f", nil)
	w.secret("nbd-e-server", server)
}

// TestTLSSteady looks again and again at exports that need nothing: no Secret is
// read or written. Those that are watched have the operator's label.
func TestTLSSteady(t *testing.T) {
	t.Parallel()
	spy := &spy{}
	config := rest.CopyConfig(operator)
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return spy.over(rt) })
	w := &world{T: t, ns: namespace(t), config: config}
	w.start()
	t.Cleanup(func() { w.stop() })
	w.export("e", secured)
	w.serve(w.pod("nbd-e", nil))
	w.must(brought(w))
	w.export("own", secured+"tls: {secretRef: {name: own}}")
	w.serve(w.pod("nbd-own", nil))
	w.expect("own", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	w.settled("e")
	e := w.read("e")
	before := spy.requests()
	for i := range 3 {
		for _, name := range []string{"nbd-e", "nbd-own"} {
			wake(w, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}}, fmt.Sprint(i))
		}
		w.settled(fmt.Sprint("e-", i))
	}
	if more := spy.requests()[len(before):]; len(more) > 0 {
		t.Errorf("requests for Secrets when nothing is to be done: %v", more)
	}
	if now := w.read("e"); now.ResourceVersion != e.ResourceVersion {
		t.Error("the export was written although nothing has changed")
	}
	watched := 0
	for _, r := range before {
		if strings.HasSuffix(r, "/secrets") {
			t.Errorf("all Secrets are read: %s", r)
		}
		if strings.Contains(r, "/secrets?") && strings.HasPrefix(r, "GET") {
			watched++
			if !strings.Contains(r, "labelSelector=nbdexport.io%2Ftls") {
				t.Errorf("Secrets without the operator's label are read: %s", r)
			}
		}
	}
	if watched == 0 {
		t.Errorf("no Secrets are watched: %v", before)
	}
}

// spy writes down what is asked of the API server about Secrets.
type spy struct {
	mu   sync.Mutex
	seen []string
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (s *spy) over(rt http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if strings.Contains(r.URL.Path, "/secrets") {
			s.mu.Lock()
			s.seen = append(s.seen, r.Method+" "+r.URL.RequestURI())
			s.mu.Unlock()
		}
		return rt.RoundTrip(r)
	})
}

func (s *spy) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// TestTLSSecretRefused makes no pod as long as a quota refuses the Secrets that it
// needs.
func TestTLSSecretRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	none := corev1.ResourceList{"count/secrets": resource.MustParse("0")}
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "no-secrets"}, Spec: corev1.ResourceQuotaSpec{Hard: none}}
	w.must(quota)
	quota.Status = corev1.ResourceQuotaStatus{Hard: none, Used: none} // there is no controller here to write it
	if err := kube.Status().Update(context.Background(), quota); err != nil {
		t.Fatal(err)
	}
	w.export("e", secured)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonPodRejected)
	says(t, message(e, v1alpha1.ConditionReady), "the API server refuses a Secret", "nbdexport-ca", "exceeded quota")
	w.noPod()
	w.remove(quota)
	eventually(t, "the pod should be made", func() string {
		wake(w, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "nbd-e"}}, fmt.Sprint(time.Now().UnixNano()))
		if w.absent(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "nbd-e"}}) {
			return message(w.read("e"), v1alpha1.ConditionReady)
		}
		return ""
	})
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonStarting)
}

// TestTLSAtOnce makes many exports at once in a namespace that has no authority yet:
// they get one.
func TestTLSAtOnce(t *testing.T) {
	t.Parallel()
	w := &world{T: t, ns: namespace(t), parallel: 4}
	w.start()
	t.Cleanup(func() { w.stop() })
	const many = 8
	for i := range many {
		w.export(fmt.Sprint("e", i), secured)
	}
	ca := w.secret("nbdexport-ca", nil)
	for i := range many {
		w.pod(fmt.Sprint("nbd-e", i), nil)
		for _, who := range []string{"server", "client"} {
			s := w.secret(fmt.Sprintf("nbd-e%d-%s", i, who), nil)
			usage := map[string]x509.ExtKeyUsage{"server": x509.ExtKeyUsageServerAuth, "client": x509.ExtKeyUsageClientAuth}[who]
			trusts(t, ca, leaf(t, s, who), "", usage, time.Now())
		}
	}
	untouched(t, ca, &corev1.Secret{})
}
