package controllers

import (
	"crypto/tls"
	"crypto/x509"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// tlsChecks are made before a pod is.
var tlsChecks = []check{authorityDamaged, tlsSecretNotFound, tlsSecretInvalid}

func secretNameTaken(o *observed) (finding, bool) {
	for _, s := range []*corev1.Secret{o.trust.server, o.trust.client} {
		if f, taken := foreign(o, "Secret", s); taken {
			return f, true
		}
	}
	return finding{}, false
}

func authorityNameTaken(o *observed) (finding, bool) {
	if o.trust.ca == nil || oursAuthority(o.trust.ca) {
		return finding{}, false
	}
	return found(v1alpha1.ReasonNameTaken, "the Secret %s isn't the operator's, which would keep the namespace's authority there: remove it, or bring certificates of your own in spec.tls.secretRef", o.trust.ca.Name)
}

// authorityDamaged finds an authority that can't be read. It isn't made anew
// without being asked to: nobody would trust those any more who trust it.
func authorityDamaged(o *observed) (finding, bool) {
	if o.trust.trouble == "" {
		return finding{}, false
	}
	return found(v1alpha1.ReasonTLSSecretInvalid, "the authority in the Secret %s can't be used: %s: restore it, or delete it to have a new one made, which clients trust once they have their new files", o.trust.ca.Name, o.trust.trouble)
}

func tlsSecretNotFound(o *observed) (finding, bool) {
	ref := o.export.Spec.TLS.GetSecretRef()
	if ref == nil || o.trust.brought != nil {
		return finding{}, false
	}
	return found(v1alpha1.ReasonTLSSecretNotFound, "the Secret %s of spec.tls.secretRef doesn't exist: create it, the export then starts", ref.Name)
}

// tlsSecretInvalid finds a Secret that the server couldn't start with, or that no
// client would take.
func tlsSecretInvalid(o *observed) (finding, bool) {
	s := o.trust.brought
	if s == nil {
		return finding{}, false
	}
	keys := []string{desired.BroughtCert, desired.BroughtKey}
	verifies := o.export.Spec.TLS.GetClientAuth() != v1alpha1.ClientAuthNone
	if verifies {
		keys = append(keys, desired.BroughtCA)
	}
	for _, key := range keys {
		if len(s.Data[key]) == 0 {
			return found(v1alpha1.ReasonTLSSecretInvalid, "the Secret %s has no %s: put it there, the export then starts", s.Name, key)
		}
	}
	pair, err := tls.X509KeyPair(s.Data[desired.BroughtCert], s.Data[desired.BroughtKey])
	switch {
	case err != nil:
		return found(v1alpha1.ReasonTLSSecretInvalid, "%s and %s in the Secret %s are no pair of a certificate and its key in PEM (%v): put a pair there, the export then starts", desired.BroughtCert, desired.BroughtKey, s.Name, err)
	case o.now.After(pair.Leaf.NotAfter):
		return found(v1alpha1.ReasonTLSSecretInvalid, "the certificate in the Secret %s has expired on %s: renew it, the export then starts", s.Name, pair.Leaf.NotAfter.Format(time.RFC3339))
	case verifies && !x509.NewCertPool().AppendCertsFromPEM(s.Data[desired.BroughtCA]):
		return found(v1alpha1.ReasonTLSSecretInvalid, "%s in the Secret %s has no certificate in PEM: put the authorities of the clients' certificates there, or set spec.tls.clientAuth to None", desired.BroughtCA, s.Name)
	}
	return finding{}, false
}
