package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// NBDExportStatus is what the operator has seen and done.
type NBDExportStatus struct {
	// conditions are Ready (clients can connect now), Progressing (a change is
	// under way), Complete (an exit condition was met and the server has ended),
	// Failed (the end wasn't clean) and, once that has happened, Degraded (clients
	// can connect, but not all that they do succeeds).
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchStrategy=merge
	// +patchMergeKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type" protobuf:"bytes,1,rep,name=conditions"`

	// observedGeneration is the generation of the spec that this status is about.
	// +optional
	ObservedGeneration *int64 `json:"observedGeneration,omitempty"`

	// uri is where the first volume is offered, in the form that libnbd and qemu
	// take.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	URI *string `json:"uri,omitempty"`

	// volumes are the volumes with the URI of each.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Volumes []VolumeStatus `json:"volumes,omitempty"`

	// podName is the pod that serves the export, or served it last.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	PodName *string `json:"podName,omitempty"`

	// serviceName is the Service by which clients reach the pod.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ServiceName *string `json:"serviceName,omitempty"`

	// connections are the connections of clients that are open, those that are still
	// negotiating among them: 0 or more, as the server said within the last half a
	// minute or so. It is absent when no server runs, and when the operator can't reach it.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Connections *int32 `json:"connections,omitempty"`

	// firstReadyAt is when clients could connect for the first time.
	// +optional
	FirstReadyAt *metav1.Time `json:"firstReadyAt,omitempty"`

	// clientSecretName is the Secret with what a client needs, in the layout that
	// libnbd and qemu read: ca-cert.pem and, unless clientAuth is None, client-cert.pem
	// and client-key.pem. It is renewed in time. Empty where the certificates aren't the
	// operator's.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ClientSecretName *string `json:"clientSecretName,omitempty"`

	// watchedPods are the pods of the podDeleted conditions as they were first
	// seen, before anything was served or when the condition came into the spec. Another pod of the same name isn't the one
	// that a condition means.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	WatchedPods []WatchedPod `json:"watchedPods,omitempty"`

	// exit is why, when and how the export ended. It is there from the moment
	// at which the operator knows that the export has to end.
	// +optional
	Exit *ExitStatus `json:"exit,omitempty"`
}

// VolumeStatus is where a volume is offered.
type VolumeStatus struct {
	// name of the volume in the spec.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
	// uri is where it is offered.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	URI string `json:"uri,omitempty"`
}

// WatchedPod is the pod that a podDeleted condition means, or one of them.
type WatchedPod struct {
	// name of the entry of exitWhen.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
	// uid of the pod, or of one that the selector found: 1 to 128 characters.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	UID string `json:"uid,omitempty"`
	// podName is the pod that the condition names. When it names another one, this
	// record counts for nothing.
	// +optional
	PodName *string `json:"podName,omitempty"`
	// selector is that of the condition, as kubectl writes it. When it is another
	// one, this record counts for nothing.
	// +optional
	Selector *string `json:"selector,omitempty"`
}

// ExitStatus is why, when and how an export ended.
type ExitStatus struct {
	// condition is the name of the entry of exitWhen that was met. When the end
	// was asked for in another way, it is the same as reason.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Condition string `json:"condition,omitempty"`

	// reason is the kind of the condition: PodDeleted, FileCreated, FileDeleted,
	// PipeClosed, ProcessExited, Script, LastClientLeft, Idle, Deadline, ObjectCondition;
	// DrainRequested for one that was asked for at the server's control socket, or
	// ScratchLost if there was none.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Reason string `json:"reason,omitempty"`

	// startedAt is when the condition was noticed and the drain began.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`

	// finishedAt is when the server had ended.
	// +optional
	FinishedAt *metav1.Time `json:"finishedAt,omitempty"`

	// clean is true when no client was cut off and all that was written is on
	// stable storage, false when that isn't so. It is absent until the server
	// has ended, and stays absent when it left no report.
	// +optional
	Clean *bool `json:"clean,omitempty"`

	// bytesRead is how many bytes the clients have read.
	// +optional
	BytesRead *int64 `json:"bytesRead,omitempty"`

	// bytesWritten is how many bytes the clients have written.
	// +optional
	BytesWritten *int64 `json:"bytesWritten,omitempty"`
}
