package v1alpha1

import "k8s.io/apimachinery/pkg/api/resource"

// Access is what clients may do with a volume.
//
// +kubebuilder:validation:Enum=ReadOnly;ReadWrite
type Access string

const (
	// ReadOnly lets clients read.
	ReadOnly Access = "ReadOnly"
	// ReadWrite lets clients read, write, trim and zero.
	ReadWrite Access = "ReadWrite"
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

	// access is what clients may do: ReadOnly or ReadWrite. A memory volume too is
	// ReadOnly unless it says otherwise.
	// +optional
	// +default="ReadOnly"
	Access Access `json:"access,omitempty"`

	// format is how the bytes lie in the file or device: Raw as they are, Qcow2 as an
	// image of qemu's, which is ReadOnly or CopyOnWrite. It is never guessed: who
	// writes a raw disk could make it look like an image of another size or content.
	// +optional
	// +default="Raw"
	Format Format `json:"format,omitempty"`
}

// VolumeSource is where the bytes of a volume are.
//
// +kubebuilder:validation:ExactlyOneOf=persistentVolumeClaim;memory
type VolumeSource struct {
	// persistentVolumeClaim is a claim in the namespace of the export.
	// +optional
	PersistentVolumeClaim *ClaimSource `json:"persistentVolumeClaim,omitempty"`

	// memory is a volume of zeros in the server's memory, whose content ends with
	// the export.
	// +optional
	Memory *MemorySource `json:"memory,omitempty"`
}

// DefaultPath is the file that is offered of a Filesystem claim when its path
// isn't set.
const DefaultPath = "disk.img"

// ClaimSource is a claim: the device of a Block claim, or a file of a
// Filesystem claim.
type ClaimSource struct {
	// claimName is the name of the PersistentVolumeClaim: 1 to 253 characters.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ClaimName string `json:"claimName,omitempty"`

	// path is the file that is offered, relative to the root of a Filesystem claim:
	// 1 to 1024 characters without commas or colons, and without empty, "." and ".."
	// parts. A symbolic link out of the claim isn't followed. Without it the file is disk.img. A Block claim has no path.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="!('/' + self + '/').matches('/[.]{0,2}/')",message="path must be relative to the root of the claim and have no empty, \".\" or \"..\" part: write it as images/disk.img"
	// +kubebuilder:validation:XValidation:rule="!self.contains(',') && !self.contains(':')",message="path must not contain a comma or a colon"
	Path string `json:"path,omitempty"`
}

// File is Path, or what holds in its place when it isn't set.
func (c ClaimSource) File() string {
	if c.Path == "" {
		return DefaultPath
	}
	return c.Path
}

// MemorySource is a volume of zeros in the server's memory.
type MemorySource struct {
	// size in bytes: a whole number above zero, such as 64Mi. Only what was
	// written takes memory.
	// +required
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).isInteger() && quantity(string(self)).isGreaterThan(quantity('0'))",message="size must be a whole number of bytes above zero"
	Size resource.Quantity `json:"size,omitzero"`
}
