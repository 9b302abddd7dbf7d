package controllers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// certificate is a PEM block with one that expires some hours after noon.
func certificate(t *testing.T, hours int) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Duration(hours) * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// secrets are those of an authority that was renewed, and of two exports.
func secrets(t *testing.T) []corev1.Secret {
	ca := slices.Concat(certificate(t, 1000), certificate(t, 10))
	out := []corev1.Secret{
		{Data: map[string][]byte{"ca-cert.pem": ca, "ca-key.pem": []byte("x")}},
		{Data: map[string][]byte{"ca-cert.pem": ca, "server-cert.pem": certificate(t, 200)}},
		{Data: map[string][]byte{"ca-cert.pem": ca, "server-cert.pem": certificate(t, 100)}},
		{Data: map[string][]byte{"ca-cert.pem": ca, "client-cert.pem": certificate(t, 300)}},
		{Data: map[string][]byte{"ca-cert.pem": nil, "server-cert.pem": []byte("no certificate"), "tls.crt": certificate(t, 1)}},
	}
	for i := range out {
		out[i].UID, out[i].ResourceVersion = types.UID(fmt.Sprint(i)), "1"
	}
	return out
}

// TestCertificateExpiry finds the earliest of each kind, and takes nothing else for one.
func TestCertificateExpiry(t *testing.T) {
	err := testutil.CollectAndCompare(CertificateExpiry(fullCache{secrets: secrets(t)}, leads()), strings.NewReader(`
# HELP nbdexport_certificate_expiry_timestamp_seconds Unix time at which a certificate that the operator has issued expires: the earliest, by kind: ca, server or client.
# TYPE nbdexport_certificate_expiry_timestamp_seconds gauge
nbdexport_certificate_expiry_timestamp_seconds{kind="ca"} 1.7709552e+09
nbdexport_certificate_expiry_timestamp_seconds{kind="client"} 1.7684352e+09
nbdexport_certificate_expiry_timestamp_seconds{kind="server"} 1.7677152e+09
`))
	if err != nil {
		t.Error(err)
	}
	// Nobody renews what an export had that has ended.
	over := v1alpha1.NBDExport{ObjectMeta: metav1.ObjectMeta{UID: "1"}, Status: &v1alpha1.NBDExportStatus{
		Conditions: []metav1.Condition{{Type: v1alpha1.ConditionComplete, Status: metav1.ConditionTrue}}}}
	owned := corev1.Secret{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{ownerRef("1")}}, Data: map[string][]byte{"server-cert.pem": certificate(t, 1)}}
	cache := fullCache{exports: []v1alpha1.NBDExport{over}, secrets: []corev1.Secret{owned}}
	if n := testutil.CollectAndCount(CertificateExpiry(cache, leads())); n != 0 {
		t.Errorf("%d series of an export that has ended", n)
	}
	cache.exports[0].Status = nil
	if n := testutil.CollectAndCount(CertificateExpiry(cache, leads())); n != 1 {
		t.Errorf("%d series of an export that is served", n)
	}
	if n := testutil.CollectAndCount(CertificateExpiry(fullCache{secrets: secrets(t)}, make(chan struct{}))); n != 0 {
		t.Errorf("%d series of an operator that doesn't lead", n)
	}
}

// TestCertificatesAreParsedOnce: a Secret of another version is read again, and no
// other. One that is gone is forgotten.
func TestCertificatesAreParsedOnce(t *testing.T) {
	all := secrets(t)
	c := CertificateExpiry(fullCache{secrets: all}, leads()).(*certificateExpiry)
	clients := func() int { // the fourth Secret has the only one of that kind
		testutil.CollectAndCount(c)
		return len(c.parsed["3"].expiry)
	}
	if n := clients(); n != 2 {
		t.Errorf("%d kinds", n)
	}
	all[3].Data = nil
	if n := clients(); n != 2 {
		t.Errorf("a Secret that hasn't changed was read again: %d kinds", n)
	}
	all[3].ResourceVersion = "2"
	if n := clients(); n != 0 {
		t.Errorf("a Secret that has changed wasn't read again: %d kinds", n)
	}
	c.cache = fullCache{secrets: all[:1]}
	if clients(); len(c.parsed) != 1 {
		t.Errorf("%d Secrets are remembered", len(c.parsed))
	}
}
