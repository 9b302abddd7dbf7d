package controller_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/nbdserver/certificates/certificatestest"
)

// brought is a Secret as cert-manager makes it.
func brought(w *world) *corev1.Secret {
	w.Helper()
	ca := certificatestest.NewAuthority(w.T, "ca")
	cert, key := ca.Issue(w.T, certificatestest.Server())
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "own"},
		Type:       corev1.SecretTypeTLS,
		Data:       map[string][]byte{"tls.crt": cert, "tls.key": key, "ca.crt": ca.PEM},
	}
}

// TestOwnCertificates waits for the Secret of the user, and serves with it.
func TestOwnCertificates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.export("e", secured+"tls: {secretRef: {name: own}}")
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonTLSSecretNotFound)
	says(t, message(e, v1alpha1.ConditionReady), "the Secret own of spec.tls.secretRef doesn't exist: create it")
	w.expect("e", v1alpha1.ConditionProgressing, no, v1alpha1.ReasonTLSSecretNotFound)
	w.noPod()

	own := brought(w)
	w.must(own)
	wake(w, e, "1")
	pod := w.pod("nbd-e", nil)
	args := strings.Join(pod.Spec.Containers[0].Args, " ")
	if !strings.Contains(args, "--tls require --tls-certificates /etc/nbdexport-tls --tls-verify-peer") || strings.Contains(args, "--tls-allow-san") {
		t.Errorf("the server is told %s", args)
	}
	i := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == "nbdexport-tls" })
	files := map[string]string{}
	for _, item := range pod.Spec.Volumes[i].Secret.Items {
		files[item.Key] = item.Path
	}
	if s := pod.Spec.Volumes[i].Secret; s.SecretName != "own" || len(files) != 3 ||
		files["tls.crt"] != "server-cert.pem" || files["tls.key"] != "server-key.pem" || files["ca.crt"] != "ca-cert.pem" {
		t.Errorf("the volume with the certificates: %+v", s)
	}
	w.serve(pod)
	e = w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	if e.Status.ClientSecretName != nil || !strings.HasPrefix(ptr.Deref(e.Status.URI, ""), "nbds://") {
		t.Errorf("status: %+v", e.Status)
	}
	if s := w.secrets(); len(s) != 1 {
		t.Errorf("Secrets: %v", s)
	}
	untouched(t, own, &corev1.Secret{})

	// What serves goes on: the server has its files, and says itself what is wrong
	// with new ones.
	w.remove(own)
	wake(w, e, "2")
	w.settled("served")
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	untouched(t, pod, &corev1.Pod{})
}

// TestOwnCertificatesInvalid has Secrets that the server couldn't start with.
func TestOwnCertificatesInvalid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	own := brought(w)
	good := own.DeepCopy().Data
	_, otherKey := certificatestest.NewAuthority(t, "other").Issue(t, certificatestest.Server())
	template := certificatestest.Server()
	template.NotAfter = time.Unix(1e9, 0)
	expired, expiredKey := certificatestest.NewAuthority(t, "ca").Issue(t, template)
	own.Type = corev1.SecretTypeOpaque
	delete(own.Data, "tls.crt")
	w.must(own)
	w.export("e", secured+"tls: {secretRef: {name: own}}")
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonTLSSecretInvalid)
	says(t, message(e, v1alpha1.ConditionReady), "the Secret own has no tls.crt: put it there")
	for _, c := range []struct {
		name   string
		change map[string][]byte
		says   string
	}{
		{"no key", map[string][]byte{"tls.key": nil}, "has no tls.key"},
		{"no authorities", map[string][]byte{"ca.crt": {}}, "has no ca.crt"},
		{"no PEM", map[string][]byte{"tls.crt": []byte("x")}, "tls.crt and tls.key in the Secret own are no pair"},
		{"half a key", map[string][]byte{"tls.key": good["tls.key"][:100]}, "tls.crt and tls.key in the Secret own are no pair"},
		{"the key of another", map[string][]byte{"tls.key": otherKey}, "tls.crt and tls.key in the Secret own are no pair"},
		{"the two swapped", map[string][]byte{"tls.crt": good["tls.key"], "tls.key": good["tls.crt"]}, "tls.crt and tls.key in the Secret own are no pair"},
		{"expired", map[string][]byte{"tls.crt": expired, "tls.key": expiredKey}, "has expired on 2001-09-09T01:46:40Z: renew it"},
		{"no authority in PEM", map[string][]byte{"ca.crt": []byte("x")}, "ca.crt in the Secret own has no certificate in PEM"},
	} {
		own.Data = map[string][]byte{"tls.crt": good["tls.crt"], "tls.key": good["tls.key"], "ca.crt": good["ca.crt"]}
		for k, v := range c.change {
			own.Data[k] = v
		}
		if err := kube.Update(context.Background(), own); err != nil {
			t.Fatal(err)
		}
		wake(w, e, strings.ReplaceAll(c.name, " ", "-"))
		eventually(t, c.name, func() string {
			m := message(w.read("e"), v1alpha1.ConditionReady)
			if !strings.Contains(m, c.says) {
				return m
			}
			if strings.Contains(m, "BEGIN") || strings.Contains(m, string(good["tls.key"][30:60])) {
				t.Errorf("%s: the message has a key in it: %s", c.name, m)
			}
			return ""
		})
		w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonTLSSecretInvalid)
	}
	w.noPod()
	own.Data = good
	if err := kube.Update(context.Background(), own); err != nil {
		t.Fatal(err)
	}
	wake(w, e, "good")
	w.pod("nbd-e", nil)
}

// TestOwnCertificatesWithoutClients needs no authorities where no client is asked for
// a certificate.
func TestOwnCertificatesWithoutClients(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	own := brought(w)
	delete(own.Data, "ca.crt")
	w.must(own)
	w.export("e", secured+"tls: {secretRef: {name: own}, clientAuth: None}")
	pod := w.pod("nbd-e", nil)
	i := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == "nbdexport-tls" })
	if s := pod.Spec.Volumes[i].Secret; len(s.Items) != 2 {
		t.Errorf("the volume with the certificates: %+v", s)
	}
}
