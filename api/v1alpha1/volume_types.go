package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

// Access is what clients may do with a volume.
//
// +kubebuilder:validation:Enum=ReadOnly;ReadWrite;CopyOnWrite
type Access string

const (
	// ReadOnly lets clients read.
	ReadOnly Access = "ReadOnly"
	// ReadWrite lets clients read, write, trim and zero.
	ReadWrite Access = "ReadWrite"
	// CopyOnWrite lets clients do the same, and leaves the source as it is: what
	// they change is in a scratch that ends with the export.
	CopyOnWrite Access = "CopyOnWrite"
)

// Format is how the bytes of a volume lie in its file or device.
//
// +kubebuilder:validation:Enum=Raw;Qcow2
type Format string

const (
	// Raw is every byte at its place.
	Raw Format = "Raw"
	// Qcow2 is an image in qemu's format, version 2 or 3, without a backing file, an
	// external data file or encryption.
	Qcow2 Format = "Qcow2"
)

// Volume is something with bytes that is offered under a name.
//
// +kubebuilder:validation:XValidation:rule="self.format == 'Raw' || self.access != 'ReadWrite'",message="a volume with format Qcow2 can't be ReadWrite: the image is only read; make access ReadOnly or CopyOnWrite",fieldPath=".access"
// +kubebuilder:validation:XValidation:rule="self.format == 'Raw' || !has(self.source.memory)",message="memory has no format: leave format out",fieldPath=".format"
// +kubebuilder:validation:XValidation:rule="has(self.scratch) == (self.access == 'CopyOnWrite')",message="scratch goes with access CopyOnWrite, which needs it: say how much clients may change, such as scratch: {sizeLimit: 10Gi}",fieldPath=".scratch"
// +kubebuilder:validation:XValidation:rule="!has(self.source.volumeSnapshot) || self.access != 'ReadWrite'",message="a volumeSnapshot can't be ReadWrite: what is written would be lost with the temporary claim; leave access out, or restore the snapshot to a claim of your own and export that one",fieldPath=".access"
type Volume struct {
	// name is the NBD export name: 1 to 63 characters, lower-case letters, digits
	// and dashes, with a letter or digit at both ends.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`

	// source is where the bytes are: exactly one of its fields is set.
	// +required
	Source VolumeSource `json:"source,omitzero"`

	// access is what clients may do: ReadOnly, ReadWrite or CopyOnWrite. A memory
	// volume too is ReadOnly unless it says otherwise.
	// +optional
	// +default="ReadOnly"
	Access *Access `json:"access,omitempty"`

	// format is how the bytes lie in the file or device: Raw as they are, Qcow2 as an
	// image of qemu's, which is ReadOnly or CopyOnWrite. It is never guessed: who
	// writes a raw disk could make it look like an image of another size or content.
	// +optional
	// +default="Raw"
	Format *Format `json:"format,omitempty"`

	// scratch is where the changes to a CopyOnWrite volume are. It is required for
	// such a volume, and there is none for others.
	// +optional
	Scratch *Scratch `json:"scratch,omitempty"`
}

// Scratch is the place on the node's disk for the changes to a CopyOnWrite volume.
// It is dropped when the server ends, however that comes about.
type Scratch struct {
	// sizeLimit is how much it may hold, in bytes: a whole number from 64Ki to 1Pi,
	// such as 10Gi. It takes 64Ki for each 64Ki of the volume that clients have
	// written to; what they trim is given back. Beyond the limit they get ENOSPC,
	// which a guest's file system takes for a broken disk. The pod asks for as much
	// ephemeral-storage, unless the resources of the template name that.
	// +required
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="string(self).matches('^[0-9]+(k|[MGTP]|[KMGTP]i)?$') && quantity(string(self)).compareTo(quantity('64Ki')) >= 0 && quantity(string(self)).compareTo(quantity('1Pi')) <= 0",message="sizeLimit must be a whole number of bytes from 64Ki to 1Pi, such as 1536Mi"
	SizeLimit *resource.Quantity `json:"sizeLimit,omitempty"`
}

// VolumeSource is where the bytes of a volume are.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:ExactlyOneOf=persistentVolumeClaim;volumeSnapshot;memory
type VolumeSource struct {
	// persistentVolumeClaim is a claim in the namespace of the export.
	// +optional
	PersistentVolumeClaim *ClaimSource `json:"persistentVolumeClaim,omitempty"`

	// volumeSnapshot is a snapshot in the namespace of the export. It is restored to
	// a temporary claim, which is deleted when the export has ended.
	// +optional
	VolumeSnapshot *SnapshotSource `json:"volumeSnapshot,omitempty"`

	// memory is a volume of zeros in the server's memory, whose content ends with
	// the export. With CopyOnWrite its content is in the scratch, on disk.
	// +optional
	Memory *MemorySource `json:"memory,omitempty"`
}

// DefaultPath is the file that is offered of a Filesystem volume when its path
// isn't set.
const DefaultPath = "disk.img"

// ClaimSource is a claim: the device of a Block claim, or a file of a
// Filesystem claim.
type ClaimSource struct {
	// claimName is the name of the PersistentVolumeClaim: 1 to 253 characters.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	ClaimName string `json:"claimName,omitempty"`

	// path is the file that is offered of a Filesystem claim. Without it the file is
	// disk.img. A Block claim has no path.
	// +optional
	Path *FilePath `json:"path,omitempty"`
}

// File is Path, or what holds in its place when it isn't set.
func (c ClaimSource) File() string { return string(ptr.Deref(c.Path, DefaultPath)) }

// SnapshotSource is a VolumeSnapshot (snapshot.storage.k8s.io/v1): the device of
// a Block volume, or a file of a Filesystem volume, as it was when the snapshot
// was taken.
type SnapshotSource struct {
	// name of the VolumeSnapshot: 1 to 253 characters.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	Name string `json:"name,omitempty"`

	// storageClassName is the class of the temporary claim, which has to be one of
	// the CSI driver that took the snapshot: 1 to 253 characters. Without it, it is
	// the class of the claim that the snapshot was taken of, or the cluster's
	// default if that claim doesn't exist any more.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	StorageClassName *string `json:"storageClassName,omitempty"`

	// path is the file that is offered of a Filesystem volume. Without it the file
	// is disk.img. A Block volume has no path.
	// +optional
	Path *FilePath `json:"path,omitempty"`
}

// File is Path, or what holds in its place when it isn't set.
func (s SnapshotSource) File() string { return string(ptr.Deref(s.Path, DefaultPath)) }

// FilePath is a file relative to the root of a volume: 1 to 1024 characters
// without commas, colons or control characters, and without empty, "." and ".."
// parts. A symbolic link out of the volume isn't followed.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=1024
// +kubebuilder:validation:XValidation:rule="!('/' + self + '/').matches('/[.]{0,2}/')",message="path must be relative to the root of the claim and have no empty, \".\" or \"..\" part: write it as images/disk.img"
// +kubebuilder:validation:XValidation:rule="!self.matches('[,:[:cntrl:]]')",message="path must not contain a comma, a colon or a control character"
type FilePath string

// MemorySource is a volume of zeros in the server's memory.
type MemorySource struct {
	// size in bytes: a whole number above zero, at most 1Pi, such as 64Mi. Only what
	// was written takes memory.
	// +required
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="string(self).matches('^[0-9]+(k|[MGTP]|[KMGTP]i)?$') && quantity(string(self)).isGreaterThan(quantity('0')) && quantity(string(self)).compareTo(quantity('1Pi')) <= 0",message="size must be a whole number of bytes above zero, at most 1Pi, such as 1536Mi"
	Size *resource.Quantity `json:"size,omitempty"`
}
