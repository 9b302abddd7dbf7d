package controllers

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/authority"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

const day = 24 * time.Hour

// secured is scene with TLS, with an authority and certificates made at noon.
func secured(t *testing.T) *observed {
	t.Helper()
	o := scene()
	o.export.Spec.TLS = &v1alpha1.TLS{Mode: ptr.To(v1alpha1.TLSRequired), ClientAuth: ptr.To(v1alpha1.ClientAuthRequired)}
	a, err := authority.New("vms", noon)
	if err != nil {
		t.Fatal(err)
	}
	o.trust = trust{authority: a, ca: desired.AuthoritySecret("vms", a), addresses: []string{"10.0.0.1"}}
	issue(t, o)
	return o
}

// issue makes the certificates anew.
func issue(t *testing.T, o *observed) {
	t.Helper()
	for _, s := range []struct {
		credential desired.Credential
		to         **corev1.Secret
	}{
		{desired.ServerCredential(o.export, o.trust.addresses), &o.trust.server},
		{desired.ClientCredential(o.export), &o.trust.client},
	} {
		var err error
		if *s.to, err = s.credential.Issue(o.trust.authority, o.now); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCertificates has a row for each thing that makes certificates due.
func TestCertificates(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*observed)
		certify bool
	}{
		{"as it has to be", func(*observed) {}, false},
		{"no TLS", func(o *observed) { o.export.Spec.TLS.Mode, o.trust = ptr.To(v1alpha1.TLSDisabled), trust{} }, false},
		{"the user's own", func(o *observed) {
			o.export.Spec.TLS.SecretRef, o.trust = &v1alpha1.TLSSecretReference{Name: "own"}, trust{brought: &corev1.Secret{}}
		}, false},
		{"nothing yet", func(o *observed) { o.trust = trust{} }, true},
		{"no authority", func(o *observed) { o.trust.ca, o.trust.authority = nil, nil }, true},
		{"an authority that can't be read", func(o *observed) { o.trust.authority, o.trust.trouble = nil, "no key" }, false},
		{"no Secret for the server", func(o *observed) { o.trust.server = nil }, true},
		{"no Secret for clients", func(o *observed) { o.trust.client = nil }, true},
		{"another address", func(o *observed) { o.trust.addresses = []string{"10.0.0.2"} }, true},
		{"clients aren't asked any more", func(o *observed) { o.export.Spec.TLS.ClientAuth = ptr.To(v1alpha1.ClientAuthNone) }, true},
		{"an authority that isn't trusted yet", func(o *observed) { o.trust.client.Data["ca-cert.pem"] = []byte("x") }, true},
		{"a label less", func(o *observed) { delete(o.trust.server.Labels, v1alpha1.LabelExport) }, true},
		{"56 days later", func(o *observed) { o.now = noon.Add(56 * day) }, false},
		{"60 days later", func(o *observed) { o.now = noon.Add(60 * day) }, true},
		{"60 days later, in the drain", func(o *observed) {
			o.now = noon.Add(60 * day)
			withPod(o)
			o.export.Status.Exit = &v1alpha1.ExitStatus{Condition: "stop", Reason: v1alpha1.ExitFileCreated}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := secured(t)
			c.change(o)
			if p := decide(o); p.certify != c.certify {
				t.Errorf("certificates are due: %v", p.certify)
			}
		})
	}
}

// TestCertificatesAgain has the reconciler come back by itself when something is due.
func TestCertificatesAgain(t *testing.T) {
	o := secured(t)
	withPod(o)
	if again := decide(o).again; again < 56*day || again > 60*day {
		t.Errorf("after a new certificate again in %v", again)
	}
	o.now = o.now.Add(decide(o).again)
	if !decide(o).certify {
		t.Error("at that time nothing is due")
	}

	for _, auth := range []v1alpha1.ClientAuth{v1alpha1.ClientAuthRequired, v1alpha1.ClientAuthNone} {
		o = secured(t)
		withPod(o)
		o.export.Spec.TLS.ClientAuth = ptr.To(auth)
		due := o.trust.authority.Due()
		for _, at := range []time.Time{due.Add(-time.Hour), due} {
			o.now = at
			issue(t, o)
			p := decide(o)
			if at.Before(due) && (p.certify || p.again != time.Hour) || !at.Before(due) && !p.certify {
				t.Errorf("clientAuth %s, %v before the succession: due %v, again in %v", auth, due.Sub(at), p.certify, p.again)
			}
		}
	}
}

// TestTrustRefused has a row for each reason not to make a pod.
func TestTrustRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*observed)
		reason string
		again  time.Duration
	}{
		{"the Secret for clients is somebody's", func(o *observed) { o.trust.client.OwnerReferences = nil }, v1alpha1.ReasonNameTaken, refusedDelay},
		{"the server's is another export's", func(o *observed) { o.trust.server.OwnerReferences = []metav1.OwnerReference{ownerRef("2")} }, v1alpha1.ReasonNameTaken, refusedDelay},
		{"the authority's is somebody's", func(o *observed) { o.trust.ca.Labels, o.trust.authority = nil, nil }, v1alpha1.ReasonNameTaken, refusedDelay},
		{"the authority can't be read", func(o *observed) { o.trust.authority, o.trust.trouble = nil, "no key" }, v1alpha1.ReasonTLSSecretInvalid, secretDelay},
		{"there is no Secret", func(o *observed) {
			o.export.Spec.TLS.SecretRef, o.trust = &v1alpha1.TLSSecretReference{Name: "own"}, trust{}
		}, v1alpha1.ReasonTLSSecretNotFound, secretDelay},
		{"there is nothing in the Secret", func(o *observed) {
			o.export.Spec.TLS.SecretRef, o.trust = &v1alpha1.TLSSecretReference{Name: "own"}, trust{brought: &corev1.Secret{}}
		}, v1alpha1.ReasonTLSSecretInvalid, secretDelay},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := secured(t)
			c.change(o)
			p := decide(o)
			ready, message := said(p, v1alpha1.ConditionReady)
			if p.pod != podKeep || p.certify || ready != "False "+c.reason || p.again != c.again || !strings.Contains(message, ":") {
				t.Errorf("pod %v, certify %v, again in %v: %s: %s", p.pod, p.certify, p.again, ready, message)
			}
		})
	}
}
