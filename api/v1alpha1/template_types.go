package v1alpha1

import corev1 "k8s.io/api/core/v1"

// PodTemplate says what the export's pod has beside the server, where it runs
// and what it may use.
type PodTemplate struct {
	// containers run in the export's pod beside the server, at most 8: they start
	// before it and are stopped after it, as native sidecars do. The directory
	// /run/nbdexport, where the paths of exitWhen lie, is mounted into each of
	// them. Where a container sets no securityContext it gets the one that
	// the Pod Security Standard "restricted" asks for. One that doesn't end on
	// SIGTERM holds up the end of the pod, though not that of the export. The name
	// nbdserver and the TCP ports 10809 and 10810 are taken, and of the volumes
	// whose names begin with nbdexport- only nbdexport-run can be mounted, at that
	// directory. Each has at most 64 ports, volumeMounts and volumeDevices. There is no
	// restartPolicy but Always, and no rule about it.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:XValidation:rule="self.all(c, c.name != 'nbdserver')",message="the container name nbdserver is taken by the server"
	// +kubebuilder:validation:XValidation:rule="self.all(c, (!has(c.restartPolicy) || c.restartPolicy == 'Always') && !has(c.restartPolicyRules))",message="containers of the template are native sidecars, which are always started again: leave restartPolicy and restartPolicyRules out"
	// +kubebuilder:validation:XValidation:rule="self.all(c, (!has(c.volumeMounts) || c.volumeMounts.all(m, m.mountPath == '/run/nbdexport' ? m.name == 'nbdexport-run' : !m.name.startsWith('nbdexport-'))) && (!has(c.volumeDevices) || c.volumeDevices.all(d, !d.name.startsWith('nbdexport-'))))",message="volumes whose names begin with nbdexport- are the server's: a container may mount only nbdexport-run of them, at /run/nbdexport, where nothing else can be mounted"
	// +kubebuilder:validation:XValidation:rule="self.all(c, !has(c.ports) || c.ports.all(p, !(p.containerPort in [10809, 10810]) || (has(p.protocol) && p.protocol != 'TCP')))",message="the TCP ports 10809 and 10810 are the server's: have the container listen on another one"
	Containers []corev1.Container `json:"containers,omitempty"`

	// volumes are for the containers above to mount, at most 16. Names that begin
	// with "nbdexport-" are taken.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(v, !v.name.startsWith('nbdexport-'))",message="volume names that begin with nbdexport- are taken by the operator"
	Volumes []corev1.Volume `json:"volumes,omitempty"`

	// nodeSelector are labels that the pod's node must have, at most 32.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// tolerations are the taints of nodes that the pod puts up with, at most 32.
	// Those of a pod that holds a ReadWriteOnce claim are added to them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`

	// resources are what the server may use and is promised. Without it the server
	// is promised little: 50m of CPU, and 64Mi of memory beside the size of the
	// memory volumes.
	// +optional
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`

	// affinity is where the pod runs rather, and where it must and must not. A claim
	// that only one node can mount is a further condition, not another choice.
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`

	// priorityClassName is the PriorityClass of the pod: 1 to 253 characters.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	PriorityClassName *string `json:"priorityClassName,omitempty"`

	// imagePullSecrets are the Secrets of the namespace with which the images of the
	// pod are pulled, the server's too: at most 8.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=8
	ImagePullSecrets []ImagePullSecret `json:"imagePullSecrets,omitempty"`

	// securityContext is who the pod's processes are: user and group 65532 without
	// it.
	// +optional
	SecurityContext *SecurityContext `json:"securityContext,omitempty"`

	// labels of the pod, at most 32. Those by which the operator and its monitoring
	// find the pod are taken.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('nbdexport.io/') && !(k in ['app.kubernetes.io/name', 'app.kubernetes.io/instance', 'app.kubernetes.io/managed-by']))",message="labels that begin with nbdexport.io/, and app.kubernetes.io/name, instance and managed-by, are taken by the operator"
	Labels map[string]LabelValue `json:"labels,omitempty"`

	// annotations of the pod, at most 32, of at most 4096 characters. Keys that
	// begin with nbdexport.io/ are taken, and none takes AppArmor's profile from a
	// container.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('container.apparmor.security.beta.kubernetes.io/'))",message="annotations that begin with container.apparmor.security.beta.kubernetes.io/ would change the server's container too: use securityContext.appArmorProfile of a container of the template"
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('nbdexport.io/'))",message="annotations that begin with nbdexport.io/ are taken by the operator"
	Annotations map[string]AnnotationValue `json:"annotations,omitempty"`
}

// LabelValue is the value of a label: at most 63 characters, letters, digits,
// dashes, dots and underscores, with a letter or digit at both ends.
//
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:Pattern=`^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$`
type LabelValue string

// AnnotationValue is the value of an annotation: at most 4096 characters.
//
// +kubebuilder:validation:MaxLength=4096
type AnnotationValue string

// ImagePullSecret names a Secret in the namespace of the export.
type ImagePullSecret struct {
	// name of the Secret: 1 to 253 characters.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	Name string `json:"name,omitempty"`
}

// SecurityContext is who the processes of the pod are, within what the Pod
// Security Standard "restricted" allows: never root, and with the runtime's own
// seccomp profile.
type SecurityContext struct {
	// runAsUser is the user, a number from 1 to 2147483647; 65532 without it. The
	// disks of KubeVirt belong to 107.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483647
	RunAsUser *int64 `json:"runAsUser,omitempty"`

	// runAsGroup is the group, from 0 to 2147483647; the number of runAsUser without
	// it.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	RunAsGroup *int64 `json:"runAsGroup,omitempty"`

	// fsGroup is the group that the volumes are given to where their driver can do
	// that, from 0 to 2147483647; the number of runAsUser without it.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	FSGroup *int64 `json:"fsGroup,omitempty"`

	// fsGroupChangePolicy says whether the files of a volume are given to fsGroup
	// Always, or, which is the default, OnRootMismatch: when the volume's root isn't.
	// +optional
	FSGroupChangePolicy *FSGroupChangePolicy `json:"fsGroupChangePolicy,omitempty"`

	// supplementalGroups are further groups, at most 32, each from 0 to 2147483647.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:Minimum=0
	// +kubebuilder:validation:items:Maximum=2147483647
	SupplementalGroups []int64 `json:"supplementalGroups,omitempty"`

	// seLinuxOptions are the SELinux label of the processes; the runtime chooses one
	// without it.
	// +optional
	SELinuxOptions *SELinuxOptions `json:"seLinuxOptions,omitempty"`
}

// FSGroupChangePolicy says when the files of a volume are given to a group.
//
// +kubebuilder:validation:Enum=OnRootMismatch;Always
type FSGroupChangePolicy string

const (
	// FSGroupOnRootMismatch is when the root of the volume isn't that group's.
	FSGroupOnRootMismatch FSGroupChangePolicy = "OnRootMismatch"
	// FSGroupAlways is at each start of a pod.
	FSGroupAlways FSGroupChangePolicy = "Always"
)

// SELinuxOptions are the parts of an SELinux label that the Pod Security Standard
// "restricted" leaves to the pod.
//
// +kubebuilder:validation:MinProperties=1
type SELinuxOptions struct {
	// level such as s0:c123,c456: 1 to 256 characters.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Level *string `json:"level,omitempty"`

	// type is container_t, container_init_t, container_kvm_t or
	// container_engine_t.
	// +optional
	Type *SELinuxType `json:"type,omitempty"`
}

// SELinuxType is the type of an SELinux label.
//
// +kubebuilder:validation:Enum=container_t;container_init_t;container_kvm_t;container_engine_t
type SELinuxType string
