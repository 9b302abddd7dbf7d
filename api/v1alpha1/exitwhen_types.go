package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// RunDir is the directory that every container of an export's pod shares: the
// place for the files and FIFOs of exit conditions.
const RunDir = "/run/nbdexport"

// ExitCondition is something that ends the export when it happens. It counts
// once: what happened isn't taken back.
//
// +kubebuilder:validation:ExactlyOneOf=podDeleted;fileCreated;fileDeleted;pipeClosed;processExited;script;lastClientLeft;idle;deadline;objectCondition
type ExitCondition struct {
	// name is how status tells which condition ended the export: 1 to 63
	// characters, lower-case letters, digits and dashes, with a letter or digit
	// at both ends.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`

	// podDeleted is met when a pod is being deleted, is gone, has finished, or was
	// replaced by another one of the same name. A named pod that isn't there when
	// the export is created counts as gone.
	// +optional
	PodDeleted *PodDeleted `json:"podDeleted,omitempty"`

	// fileCreated is met when the file exists.
	// +optional
	FileCreated *FileCondition `json:"fileCreated,omitempty"`

	// fileDeleted is met when the file doesn't exist. A file that isn't there
	// when the server starts counts as deleted.
	// +optional
	FileDeleted *FileCondition `json:"fileDeleted,omitempty"`

	// pipeClosed is met when the last writer of a FIFO has closed it.
	// +optional
	PipeClosed *FileCondition `json:"pipeClosed,omitempty"`

	// processExited is met when a process of one of the template's containers has
	// exited. The containers of the pod see each other's processes then.
	// +optional
	ProcessExited *ProcessExited `json:"processExited,omitempty"`

	// script is met when a command exits with 88.
	// +optional
	Script *Script `json:"script,omitempty"`

	// lastClientLeft is met when clients have come and all of them have left. A
	// server that was started again counts anew.
	// +optional
	LastClientLeft *LastClientLeft `json:"lastClientLeft,omitempty"`

	// idle is met when no client has been connected for a while: since the last
	// one left, or since the server started.
	// +optional
	Idle *Idle `json:"idle,omitempty"`

	// deadline is met at a time, whether clients are connected or not.
	// +optional
	Deadline *Deadline `json:"deadline,omitempty"`

	// objectCondition is met when another object has a condition, such as a Job
	// that is Complete. It is looked at every pollSeconds.
	// +optional
	ObjectCondition *ObjectCondition `json:"objectCondition,omitempty"`
}

// ObjectCondition is an entry of status.conditions of an object of any kind that
// the operator may get, but for Secrets. The object is in the namespace of the
// export, unless its kind has none. One that doesn't exist has no conditions.
//
// +kubebuilder:validation:XValidation:rule="self.kind != 'Secret' || self.apiVersion.contains('/')",message="Secrets are only read for TLS: name an object of another kind",fieldPath=".kind"
type ObjectCondition struct {
	// apiVersion of the object, such as batch/v1: 1 to 253 characters.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?v[a-z0-9]+$`
	APIVersion string `json:"apiVersion,omitempty"`

	// kind of the object, such as Job: 1 to 63 characters.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Z][A-Za-z0-9]*$`
	Kind string `json:"kind,omitempty"`

	// name of the object: 1 to 253 characters.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[^/%]*[^./%][^/%]*$`
	Name string `json:"name,omitempty"`

	// condition is the type of the condition, such as Complete: 1 to 316
	// characters.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=316
	Condition string `json:"condition,omitempty"`

	// status that the condition must have: True, False or Unknown.
	// +optional
	// +default="True"
	// +kubebuilder:validation:Enum="True";"False";Unknown
	Status *metav1.ConditionStatus `json:"status,omitempty"`
}

// LastClientLeft is the condition that clients have come and gone.
type LastClientLeft struct {
	// graceSeconds is how long nobody may have been connected, for clients that
	// connect several times for one job: 0 to 86400 seconds.
	// +optional
	// +default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	GraceSeconds *int32 `json:"graceSeconds,omitempty"`
}

// Idle is the condition that nobody is connected.
type Idle struct {
	// seconds without a client: 1 to 31536000, which is a year.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=31536000
	Seconds int32 `json:"seconds,omitempty"`
}

// Deadline is a time, or how long it is until then.
//
// +kubebuilder:validation:ExactlyOneOf=seconds;time
type Deadline struct {
	// seconds after the creation of the NBDExport, however long it took to be
	// served and however often its server was started: 1 to 31536000, which is a
	// year.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=31536000
	Seconds *int32 `json:"seconds,omitempty"`

	// time as in RFC 3339, such as 2026-01-31T18:30:00Z, in whole seconds, from 1970
	// to 9999. One in the past has come already.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Format=date-time
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:XValidation:rule="self >= timestamp('1970-01-01T00:00:00Z') && self <= timestamp('9999-12-31T23:59:59Z')",message="time must be from 1970 to 9999 in UTC"
	Time *metav1.Time `json:"time,omitempty"`
}

// At is when the deadline of an export is that was created at the given time, in
// UTC and whole seconds.
func (d Deadline) At(created time.Time) time.Time {
	at := created.Add(time.Duration(ptr.Deref(d.Seconds, 0)) * time.Second)
	if d.Time != nil {
		at = d.Time.Time
	}
	return at.UTC().Truncate(time.Second)
}

// PodDeleted says which pods it is about, in the namespace of the export.
//
// +kubebuilder:validation:ExactlyOneOf=name;selector
type PodDeleted struct {
	// name of a pod: 1 to 253 characters.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	Name *string `json:"name,omitempty"`

	// selector finds pods by their labels; it must not be empty. The condition is
	// met when at least one has been seen and all of them are being deleted, are
	// gone or have finished. The export's own pod doesn't count.
	// +optional
	// +kubebuilder:validation:XValidation:rule="has(self.matchLabels) && size(self.matchLabels) > 0 || has(self.matchExpressions) && size(self.matchExpressions) > 0",message="selector must not be empty: name a label in matchLabels or matchExpressions"
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// FileCondition names a file or FIFO.
type FileCondition struct {
	// path of the file or FIFO beneath /run/nbdexport, the directory that every
	// container of the pod shares.
	// +required
	Path SentinelPath `json:"path,omitempty"`
}

// SentinelPath is a path beneath RunDir in its shortest form, without empty, "."
// and ".." parts, or control characters: at most 1024 characters.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=1024
// +kubebuilder:validation:XValidation:rule="self.startsWith('/run/nbdexport/') && !(self + '/').matches('/[.]{0,2}/')",message="path must lie beneath /run/nbdexport/, the directory that the containers of the pod share, and have no empty, \".\" or \"..\" part: write it as /run/nbdexport/stop"
// +kubebuilder:validation:XValidation:rule="!self.matches('[[:cntrl:]]')",message="path must not contain a control character"
// +kubebuilder:validation:XValidation:rule="!(self in ['/run/nbdexport/control.sock', '/run/nbdexport/report.json'])",message="control.sock and report.json in /run/nbdexport are the server's own"
type SentinelPath string

// ProcessExited says which processes it is about, in all containers of the pod.
type ProcessExited struct {
	// name of the process: 1 to 255 printable ASCII characters but for spaces and
	// slashes. That of a program's file is one, also the name that "ps -o comm"
	// shows. The condition is met when at least one process of that name has been
	// seen and all of them have exited. Before that they are looked for every two
	// seconds; one that lives for less time may never be seen.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[!-.0-~]+$`
	Name string `json:"name,omitempty"`
}

// Script is a command that is asked whether the export has to end. It runs in
// the server's container, when the server starts and every pollSeconds, never
// twice at once. Exit code 88 is yes; every other one is no.
type Script struct {
	// command is the program and its arguments, without a shell: 1 to 32, of at
	// most 4096 characters each and 16384 together.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=4096
	// +kubebuilder:validation:XValidation:rule="self[0] != ''",message="command must begin with a program"
	// +kubebuilder:validation:XValidation:rule="self.map(c, size(c)).sum() <= 16384",message="command must have at most 16384 characters together: put what is longer into a file"
	Command []string `json:"command,omitempty"`

	// timeoutSeconds bounds one run, after which it is killed and counts as no:
	// 1 to 3600 seconds.
	// +optional
	// +default=30
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600
	TimeoutSeconds *int32 `json:"timeoutSeconds,omitempty"`
}
