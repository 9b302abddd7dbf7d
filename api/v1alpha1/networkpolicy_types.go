package v1alpha1

import networkingv1 "k8s.io/api/networking/v1"

// NetworkPolicyMode says whether a NetworkPolicy is made for an export's pod.
//
// +kubebuilder:validation:Enum=Managed;None
type NetworkPolicyMode string

const (
	// NetworkPolicyManaged makes one that admits clients to the NBD port, and
	// everybody to the port of probes and metrics.
	NetworkPolicyManaged NetworkPolicyMode = "Managed"
	// NetworkPolicyNone makes none: the namespace has its own.
	NetworkPolicyNone NetworkPolicyMode = "None"
)

// NetworkPolicy says who reaches an export's pod over the network, where the
// cluster's network plugin holds NetworkPolicies. It holds beside those that are
// there already: what any of them admits gets through.
//
// +kubebuilder:validation:XValidation:rule="!has(self.from) || self.mode == 'Managed'",message="from is for the NetworkPolicy that mode Managed makes: leave it out, or set mode to Managed",fieldPath=".from"
type NetworkPolicy struct {
	// mode is Managed or None.
	// +optional
	// +default="Managed"
	Mode *NetworkPolicyMode `json:"mode,omitempty"`

	// from are the peers that reach the NBD port, 1 to 32; without it everybody
	// does. Addresses of pods change, and some network plugins don't match them
	// with an ipBlock: select pods and namespaces by their labels.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	From []networkingv1.NetworkPolicyPeer `json:"from,omitempty"`
}
