package v1alpha1

import "k8s.io/apimachinery/pkg/api/resource"

// Limits are what clients may use, and who may be one. When they change, nobody
// is disconnected: who is there and wouldn't be let in any more stays until it
// leaves.
type Limits struct {
	// connections at a time: 1 to 65535; those that still negotiate count, and
	// give way to newcomers when there are too many. 256 by default.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Connections *int32 `json:"connections,omitempty"`

	// connectionsPerClient is the same for one IP address: 1 to 65535, without a
	// limit by default.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	ConnectionsPerClient *int32 `json:"connectionsPerClient,omitempty"`

	// bytesPerSecond is how much all clients together may read, and how much they
	// may write: a whole number above zero, at most 1Pi, such as 100Mi; without
	// a limit by default. After a pause, what two seconds allow can be moved at once.
	// +optional
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="string(self).matches('^[0-9]+(k|[MGTP]|[KMGTP]i)?$') && quantity(string(self)).isGreaterThan(quantity('0')) && quantity(string(self)).compareTo(quantity('1Pi')) <= 0",message="bytesPerSecond must be a whole number of bytes above zero, at most 1Pi, such as 1536Mi"
	BytesPerSecond *resource.Quantity `json:"bytesPerSecond,omitempty"`

	// allowedClientCIDRs are the only addresses that clients may connect from, as
	// the pod sees them: 1 to 64 ranges, such as 10.0.0.0/8 or 2001:db8::/32.
	// Without it all may.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	AllowedClientCIDRs []CIDR `json:"allowedClientCIDRs,omitempty"`
}

// CIDR is a range of IP addresses, such as 10.0.0.0/8 or 2001:db8::/32.
//
// +kubebuilder:validation:MaxLength=43
// +kubebuilder:validation:XValidation:rule="isCIDR(self)",message="must be a range of addresses with the number of its leading bits, such as 10.0.0.0/8, 192.0.2.1/32 or 2001:db8::/32"
type CIDR string
