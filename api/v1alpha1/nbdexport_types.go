package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// NBDExport offers volumes of its namespace to NBD clients until one of its
// exit conditions is met. It is served by one pod, which then drains and ends.
//
// Whoever may create an NBDExport gets a pod made with the containers and
// volumes of its template: grant it to those who may create pods.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=nbdexports,shortName=nbde,categories=storage,scope=Namespaced
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether clients can connect now"
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="Why it is ready or isn't"
// +kubebuilder:printcolumn:name="URI",type=string,JSONPath=`.status.uri`,description="Where the first volume is offered"
// +kubebuilder:printcolumn:name="Clients",type=integer,JSONPath=`.status.connections`,description="How many connections of clients are open"
// +kubebuilder:printcolumn:name="Exit",type=string,JSONPath=`.status.exit.condition`,description="The condition that ended the export"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Clean",type=boolean,JSONPath=`.status.exit.clean`,priority=1,description="Whether nothing was cut short at the end"
// +kubebuilder:printcolumn:name="Exit reason",type=string,JSONPath=`.status.exit.reason`,priority=1,description="What kind of condition ended the export"
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=`.status.podName`,priority=1,description="The pod that serves the export"
// +kubebuilder:selectablefield:JSONPath=`.spec.tls.mode`
// +kubebuilder:selectablefield:JSONPath=`.status.podName`
// +kubebuilder:selectablefield:JSONPath=`.status.exit.condition`
// +kubebuilder:selectablefield:JSONPath=`.status.exit.reason`
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.status) || !has(oldSelf.status.exit) || self.spec == oldSelf.spec",message="an exit condition was met, see status.exit: the spec can't change any more; delete the export and create it anew",fieldPath=".spec"
type NBDExport struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object. The name, which may have 253 characters, is cut
	// and hashed where it has to be shorter; status has the names in use.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what is offered, how, and until when. Limits, networkPolicy, service,
	// ttlSecondsAfterFinished and the conditions of exitWhen that the operator watches
	// itself, podDeleted and objectCondition, can be changed while clients are
	// connected. Every other change drains the pod and is followed by a new one. An
	// export with a CopyOnWrite volume takes no such change, and none is taken once
	// status.exit is set.
	// +required
	// +kubebuilder:validation:XValidation:rule="!oldSelf.volumes.exists(v, v.access == 'CopyOnWrite') || (self.volumes == oldSelf.volumes && (has(self.exitWhen) ? self.exitWhen.filter(c, !has(c.podDeleted) && !has(c.objectCondition)) : []) == (has(oldSelf.exitWhen) ? oldSelf.exitWhen.filter(c, !has(c.podDeleted) && !has(c.objectCondition)) : []) && self.pollSeconds == oldSelf.pollSeconds && self.drain == oldSelf.drain && self.tls == oldSelf.tls && has(self.template) == has(oldSelf.template) && (!has(self.template) || self.template == oldSelf.template))",message="the change needs a new pod, and with the old one would go what clients have written to the CopyOnWrite volume: delete the export and create it anew"
	Spec NBDExportSpec `json:"spec,omitzero"`

	// status is what the operator has seen and done.
	// +optional
	Status *NBDExportStatus `json:"status,omitempty"`
}

// NBDExportList is a list of NBDExports.
//
// +kubebuilder:object:root=true
type NBDExportList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	// Items are the exports.
	Items []NBDExport `json:"items"`
}

// NBDExportSpec says what is offered, how, and until when.
//
// +kubebuilder:validation:XValidation:rule="!has(self.exitWhen) || !self.exitWhen.exists(c, has(c.processExited)) || (has(self.template) && has(self.template.containers) && size(self.template.containers) > 0)",message="processExited is about the containers of the template, and there are none: put the one in whose process it is",fieldPath=".exitWhen"
type NBDExportSpec struct {
	// volumes are what is offered: 1 to 32. The first is also what a client
	// gets that names no export.
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Volumes []Volume `json:"volumes,omitempty"`

	// exitWhen are the conditions that end the export, at most 16; the first
	// one to be met does. A condition that is met already when the export is
	// created ends it before anything is served. Without any, only the deletion
	// of the NBDExport ends it.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	ExitWhen []ExitCondition `json:"exitWhen,omitempty"`

	// pollSeconds is how often scripts are run, and how often what can't be
	// watched is looked at: 1 to 3600 seconds.
	// +optional
	// +default=60
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600
	PollSeconds *int32 `json:"pollSeconds,omitempty"`

	// drain says how the clients are treated once the export has to end.
	// +optional
	// +default={}
	Drain *Drain `json:"drain,omitempty"`

	// tls says how connections are protected. By default clients have to use TLS and
	// to show the certificate that is made for them.
	// +optional
	// +default={}
	TLS *TLS `json:"tls,omitempty"`

	// service is how the export is reached.
	// +optional
	// +default={}
	Service *Service `json:"service,omitempty"`

	// networkPolicy says who reaches the export's pod over the network. It can be
	// changed, and holds at once where the network plugin holds NetworkPolicies.
	// +optional
	// +default={}
	NetworkPolicy *NetworkPolicy `json:"networkPolicy,omitempty"`

	// limits are what clients may use, and who may be one. They can be changed, and
	// hold without a new pod and without a disconnect, within two minutes or so: it
	// is the kubelet that brings them to the server.
	// +optional
	Limits *Limits `json:"limits,omitempty"`

	// ttlSecondsAfterFinished is how long after its end the NBDExport is deleted,
	// with its pod and what else was made for it: 0 to 31536000 seconds, which is a
	// year. Without it the NBDExport stays.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=31536000
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`

	// template says what the export's pod has beside the server, where it runs
	// and what it may use.
	// +optional
	Template *PodTemplate `json:"template,omitempty"`
}

// DrainPolicy is what becomes of clients that are still connected when the
// drain's grace is over.
//
// +kubebuilder:validation:Enum=Refuse;Disconnect
type DrainPolicy string

const (
	// DrainRefuse answers later requests with ESHUTDOWN and leaves it to the
	// clients to go.
	DrainRefuse DrainPolicy = "Refuse"
	// DrainDisconnect closes the connection once what was under way is
	// answered. The Linux kernel's client and qemu take that better: they turn
	// ESHUTDOWN into an I/O error, but reconnect after a close.
	DrainDisconnect DrainPolicy = "Disconnect"
)

// Drain says how the clients are treated once the export has to end: newcomers
// are refused, those connected are served until the grace is over, then only
// what they have under way is finished, and at the timeout the rest is cut off.
//
// +kubebuilder:validation:XValidation:rule="!has(self.graceSeconds) || self.graceSeconds <= self.timeoutSeconds",message="graceSeconds must not be longer than timeoutSeconds",fieldPath=".graceSeconds"
type Drain struct {
	// timeoutSeconds bounds the time from the exit condition to the end: 1 to
	// 86400 seconds.
	// +optional
	// +default=600
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	TimeoutSeconds *int32 `json:"timeoutSeconds,omitempty"`

	// graceSeconds is how long clients that are connected may go on: 0 to
	// timeoutSeconds. Without it they have nine tenths of timeoutSeconds.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	GraceSeconds *int32 `json:"graceSeconds,omitempty"`

	// policy is what happens to the requests of clients that are still connected
	// when the grace is over: Refuse answers them with an error, Disconnect closes
	// the connection.
	// +optional
	// +default="Refuse"
	Policy *DrainPolicy `json:"policy,omitempty"`
}

// Grace is GraceSeconds, or what holds in its place when it isn't set, in
// seconds.
func (d *Drain) Grace() int32 {
	if d != nil && d.GraceSeconds != nil {
		return *d.GraceSeconds
	}
	return d.GetTimeoutSeconds() * 9 / 10
}
