package v1alpha1

// DefaultPort is the port of NBD as IANA registered it.
const DefaultPort = 10809

// ServiceType is from where the Service can be reached.
//
// +kubebuilder:validation:Enum=ClusterIP;NodePort;LoadBalancer
type ServiceType string

const (
	// ServiceClusterIP is reached from within the cluster.
	ServiceClusterIP ServiceType = "ClusterIP"
	// ServiceNodePort is also reached at a port of every node, which the cluster
	// chooses.
	ServiceNodePort ServiceType = "NodePort"
	// ServiceLoadBalancer is also reached at an address that the cluster's load
	// balancer gives it.
	ServiceLoadBalancer ServiceType = "LoadBalancer"
)

// Service is how the export is reached.
type Service struct {
	// type is from where: ClusterIP from within the cluster, NodePort and
	// LoadBalancer also from outside. The URIs in the status are those for the
	// cluster whatever the type, and so are the names in the operator's certificates;
	// addresses and ports for outside are in the Service.
	// Where these types put a node's address in place of the client's, as they do
	// unless told otherwise, limits that look at addresses see that one.
	// +optional
	// +default="ClusterIP"
	Type *ServiceType `json:"type,omitempty"`

	// port is the TCP port of the Service: 1 to 65535.
	// +optional
	// +default=10809
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port *int32 `json:"port,omitempty"`

	// annotations of the Service, such as those that a load balancer reads: at most
	// 32, of at most 4096 characters. Keys that begin with nbdexport.io/ are taken.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('nbdexport.io/'))",message="annotations that begin with nbdexport.io/ are taken by the operator"
	Annotations map[string]AnnotationValue `json:"annotations,omitempty"`
}
