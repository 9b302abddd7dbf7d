package desired

import (
	"bytes"
	"crypto/x509"
	"net"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/authority"
)

// Roles of the Secrets of an export: values of v1alpha1.LabelTLS, and ends of names.
const (
	RoleServer = "server"
	RoleClient = "client"
	// RoleAuthority is that of the one of the namespace.
	RoleAuthority = "ca"
)

// bundleKey, certKey and keyKey are the keys of the Secrets of an export, which are
// the names of files that nbdserver, qemu and libnbd look for.
const bundleKey = "ca-cert.pem"

func certKey(role string) string { return role + "-cert.pem" }
func keyKey(role string) string  { return role + "-key.pem" }

// Credential is a Secret of an export that has to be: whom it trusts and, unless
// profile is nil, a certificate.
type Credential struct {
	// Role is RoleServer or RoleClient.
	Role    string
	export  *v1alpha1.NBDExport
	profile *authority.Profile
}

// ServerCredential is what the server shows to clients. Its names are those by which
// clients reach it: the Service's, its addresses, and localhost for those
// who come by "kubectl port-forward".
func ServerCredential(e *v1alpha1.NBDExport, addresses []string) Credential {
	name := ChildName(e.Name)
	inNamespace := name + "." + e.Namespace
	p := &authority.Profile{
		CommonName: name,
		Usage:      x509.ExtKeyUsageServerAuth,
		DNSNames:   []string{name, inNamespace, inNamespace + ".svc", inNamespace + ".svc.cluster.local", "localhost"},
	}
	for _, a := range addresses {
		if ip := net.ParseIP(a); ip != nil {
			p.IPs = append(p.IPs, ip)
		}
	}
	return Credential{RoleServer, e, p}
}

// ClientCredential is what clients need.
func ClientCredential(e *v1alpha1.NBDExport) Credential {
	c := Credential{RoleClient, e, nil}
	if e.Spec.TLS.GetClientAuth() != v1alpha1.ClientAuthNone {
		c.profile = &authority.Profile{
			CommonName: c.Name(),
			Usage:      x509.ExtKeyUsageClientAuth,
			URIs:       []*url.URL{clientURI(e)},
		}
	}
	return c
}

// clientURI is the name that the server asks clients for. It has the UID in it: the
// certificate of an export that is gone must not open the next one of its name.
func clientURI(e *v1alpha1.NBDExport) *url.URL {
	return &url.URL{Scheme: "nbdexport", Host: e.Namespace, Path: "/" + e.Name + "/" + string(e.UID)}
}

// Name is that of the Secret.
func (c Credential) Name() string { return SecretName(c.export.Name, c.Role) }

// Issue makes the Secret anew.
func (c Credential) Issue(a *authority.Authority, now time.Time) (*corev1.Secret, error) {
	data := map[string][]byte{bundleKey: a.Bundle()}
	if c.profile != nil {
		cert, key, err := a.Issue(*c.profile, now)
		if err != nil {
			return nil, err
		}
		data[certKey(c.Role)], data[keyKey(c.Role)] = cert, key
	}
	s := secret(c.export.Namespace, c.Name(), c.labels(), data)
	s.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "NBDExport",
		Name: c.export.Name, UID: c.export.UID, Controller: ptr.To(true)}}
	return s, nil
}

// RenewAt is when a Secret has to be issued anew, or looked at because the authority
// is another one then: the zero time if it isn't as it has to be.
func (c Credential) RenewAt(s *corev1.Secret, a *authority.Authority, now time.Time) time.Time {
	keys := 1
	if c.profile != nil {
		keys = 3
	}
	if len(s.Data) != keys || !bytes.Equal(s.Data[bundleKey], a.Bundle()) || !hasLabels(s, c.labels()) {
		return time.Time{}
	}
	due := a.Due()
	if c.profile != nil {
		if leaf := a.RenewAt(*c.profile, s.Data[certKey(c.Role)], s.Data[keyKey(c.Role)], now); leaf.Before(due) {
			return leaf
		}
	}
	return due
}

func (c Credential) labels() map[string]string {
	l := Labels(c.export.Name)
	l[v1alpha1.LabelTLS] = c.Role
	return l
}

// AuthoritySecret is the Secret with the authority of a namespace.
func AuthoritySecret(namespace string, a *authority.Authority) *corev1.Secret {
	return secret(namespace, v1alpha1.AuthoritySecret, map[string]string{
		"app.kubernetes.io/name":       "nbdexport",
		"app.kubernetes.io/managed-by": "nbdexport",
		v1alpha1.LabelTLS:              RoleAuthority,
	}, a.Data())
}

func secret(namespace, name string, labels map[string]string, data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Type:       corev1.SecretTypeOpaque,
		Data:       data,
	}
}

func hasLabels(obj metav1.Object, want map[string]string) bool {
	for k, v := range want {
		if obj.GetLabels()[k] != v {
			return false
		}
	}
	return true
}
