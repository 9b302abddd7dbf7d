package desired

import (
	corev1 "k8s.io/api/core/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

const (
	tlsVolumeName = "nbdexport-tls"
	tlsDir        = "/etc/nbdexport-tls"
	// tlsFileMode lets the group that the kubelet gives the files to read them.
	tlsFileMode = 0o440
)

// Keys of the Secret that a secretRef names.
const (
	BroughtCert = corev1.TLSCertKey
	BroughtKey  = corev1.TLSPrivateKeyKey
	BroughtCA   = "ca.crt"
)

// tlsArgs are the server's arguments about TLS. A client's certificate from the
// namespace's authority has to have the export's own name in it; of those from an
// authority of the user's all are good.
func tlsArgs(e *v1alpha1.NBDExport) []string {
	t := e.Spec.TLS
	if !t.Enabled() {
		return nil
	}
	out := []string{"--tls", "require", "--tls-certificates", tlsDir}
	if t.GetClientAuth() != v1alpha1.ClientAuthNone {
		out = append(out, "--tls-verify-peer")
		if t.Issued() {
			out = append(out, "--tls-allow-san", "URI:"+clientURI(e).String())
		}
	}
	return out
}

// tlsVolume has the files of the server under the names that it knows. As a
// directory, because what is mounted file by file never changes.
func tlsVolume(e *v1alpha1.NBDExport) *corev1ac.VolumeApplyConfiguration {
	source := corev1ac.SecretVolumeSource().WithDefaultMode(tlsFileMode)
	ref := e.Spec.TLS.GetSecretRef()
	if ref == nil {
		source.WithSecretName(SecretName(e.Name, RoleServer))
	} else {
		source.WithSecretName(ref.Name).WithItems(
			corev1ac.KeyToPath().WithKey(BroughtCert).WithPath(certKey(RoleServer)),
			corev1ac.KeyToPath().WithKey(BroughtKey).WithPath(keyKey(RoleServer)))
		if e.Spec.TLS.GetClientAuth() != v1alpha1.ClientAuthNone {
			source.WithItems(corev1ac.KeyToPath().WithKey(BroughtCA).WithPath(bundleKey))
		}
	}
	return corev1ac.Volume().WithName(tlsVolumeName).WithSecret(source)
}
