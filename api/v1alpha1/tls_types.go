package v1alpha1

import "k8s.io/utils/ptr"

// TLSMode says whether connections are protected.
//
// +kubebuilder:validation:Enum=Required;Disabled
type TLSMode string

const (
	// TLSRequired refuses clients that don't use TLS.
	TLSRequired TLSMode = "Required"
	// TLSDisabled is no protection: what clients read and write passes the network
	// in the clear, and every client that reaches the Service is served.
	TLSDisabled TLSMode = "Disabled"
)

// ClientAuth says whether clients have to show a certificate.
//
// +kubebuilder:validation:Enum=Required;None
type ClientAuth string

const (
	// ClientAuthRequired refuses clients without a certificate for this export.
	ClientAuthRequired ClientAuth = "Required"
	// ClientAuthNone asks no client for a certificate: connections are encrypted, and
	// every client that reaches the Service is served.
	ClientAuthNone ClientAuth = "None"
)

// TLS says how connections are protected.
//
// +kubebuilder:validation:XValidation:rule="!has(self.mode) || self.mode != 'Disabled' || !has(self.clientAuth) || self.clientAuth != 'None'",message="without TLS no client is asked for a certificate: leave clientAuth out, or set mode to Required",fieldPath=".clientAuth"
// +kubebuilder:validation:XValidation:rule="!has(self.mode) || self.mode != 'Disabled' || !has(self.secretRef)",message="without TLS there are no certificates: leave secretRef out, or set mode to Required",fieldPath=".secretRef"
type TLS struct {
	// mode is Required, where clients have to use TLS, or Disabled, where nothing is
	// protected.
	// +optional
	// +default="Required"
	Mode *TLSMode `json:"mode,omitempty"`

	// clientAuth is Required, where clients have to show a certificate, or None.
	// With certificates of the operator's it is the one in status.clientSecretName;
	// with a secretRef, every one for client authentication from an authority in
	// its ca.crt is good.
	// +optional
	// +default="Required"
	ClientAuth *ClientAuth `json:"clientAuth,omitempty"`

	// secretRef is a Secret with a certificate of your own for the server, such as
	// cert-manager makes and renews. Without it the operator issues certificates, and
	// renews them.
	// +optional
	SecretRef *TLSSecretReference `json:"secretRef,omitempty"`
}

// TLSSecretReference names a Secret in the namespace of the export. It has the
// server's certificate in tls.crt and its key in tls.key, and, unless clientAuth is
// None, the authorities of the clients' certificates in ca.crt, all in PEM.
type TLSSecretReference struct {
	// name of the Secret: 1 to 253 characters.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	Name string `json:"name,omitempty"`
}

// Enabled tells whether clients have to use TLS.
func (t *TLS) Enabled() bool { return t == nil || ptr.Deref(t.Mode, TLSRequired) != TLSDisabled }

// Issued tells whether the certificates are the operator's.
func (t *TLS) Issued() bool { return t.Enabled() && t.GetSecretRef() == nil }
