package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Bounds of what a header may say, those of qemu.
const (
	minClusterBits = 9
	maxClusterBits = 21
	// maxL1 is the largest L1 table in entries: 32 MiB.
	maxL1 = 4 << 20
)

// Lengths of a header in bytes.
const (
	headerV2 = 72
	headerV3 = 104
)

// Incompatible features of version 3, as bits.
const (
	featureDirty = 1 << iota
	featureCorrupt
	featureDataFile
	featureCompression
	featureExtendedL2
)

// header is what is used of an image's header. All of it has been checked.
type header struct {
	size        uint64 // of the volume, in bytes
	clusterBits uint
	l1          uint64 // where the L1 table is, in bytes
	version     uint32
	extended    bool // L2 entries have two bits for each 32nd of a cluster
}

// parseHeader reads the beginning of an image that has a number of bytes in all. The
// format is docs/interop/qcow2.txt of qemu.
func parseHeader(b []byte, fileSize uint64) (header, error) {
	var h header
	if len(b) < headerV2 || string(b[:4]) != "QFI\xfb" {
		return h, errors.New("is no qcow2 image: name one, or leave format out if it is raw")
	}
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(b[at:]) }
	u64 := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }
	h.version = u32(4)
	switch {
	case h.version != 2 && h.version != 3:
		return h, fmt.Errorf("is a qcow2 image of version %d: only 2 and 3 are known", h.version)
	case h.version == 3 && len(b) < headerV3:
		return h, errors.New("is cut short: its header isn't complete")
	case u64(8) != 0 || u32(16) != 0:
		return h, errors.New("has a backing file, which is never opened: make an image of its own with qemu-img convert")
	case u32(32) != 0:
		return h, errors.New("is encrypted: make an image that isn't with qemu-img convert")
	}
	if h.version == 3 {
		if err := h.checkFeatures(b); err != nil {
			return h, err
		}
	}
	bits := u32(20)
	if bits < minClusterBits || bits > maxClusterBits || h.extended && bits < minClusterBits+5 {
		return h, fmt.Errorf("is damaged: clusters of 2^%d bytes", bits)
	}
	h.clusterBits = uint(bits)
	h.size, h.l1 = u64(24), u64(40)
	entries := uint64(u32(36))
	needed := h.size >> h.clusterBits >> h.l2Bits()
	if h.size&(1<<(h.clusterBits+h.l2Bits())-1) != 0 {
		needed++
	}
	switch {
	case needed > maxL1:
		return h, fmt.Errorf("has a volume of %d bytes, more than clusters of 2^%d bytes are good for: make one of larger clusters with qemu-img convert", h.size, bits)
	case entries > maxL1 || entries < needed:
		return h, fmt.Errorf("is damaged: %d entries in its L1 table for a volume of %d bytes", entries, h.size)
	case needed > 0 && (h.l1 == 0 || h.l1&h.inCluster() != 0 || !fits(h.l1, entries*8, fileSize)):
		return h, fmt.Errorf("is cut short or damaged: its L1 table of %d entries at %d isn't in its %d bytes", entries, h.l1, fileSize)
	}
	return h, nil
}

// checkFeatures refuses images that can't be read as if they had none of their
// features.
func (h *header) checkFeatures(b []byte) error {
	features := binary.BigEndian.Uint64(b[72:])
	h.extended = features&featureExtendedL2 != 0
	known := uint64(featureDirty | featureCorrupt | featureDataFile | featureCompression | featureExtendedL2)
	length := binary.BigEndian.Uint32(b[100:])
	switch {
	case features&featureCorrupt != 0:
		return errors.New("is marked as corrupt: repair it with qemu-img check -r all")
	case features&featureDirty != 0:
		return errors.New("is marked as dirty: somebody has it open, or left it without closing it; close it, or repair it with qemu-img check -r all")
	case features&featureDataFile != 0:
		return errors.New("has an external data file, which is never opened: make an image of its own with qemu-img convert")
	case features&featureCompression != 0 && length > headerV3 && len(b) > headerV3 && b[headerV3] == 1:
		return errors.New("is compressed with zstd: compress it with zlib, or not at all, with qemu-img convert")
	case features&featureCompression != 0:
		return errors.New("is compressed in a way that isn't known: make one that isn't with qemu-img convert")
	case features&^known != 0:
		return fmt.Errorf("has features that aren't known: %s", bitNumbers(features&^known))
	case length < headerV3:
		return fmt.Errorf("is damaged: a header of %d bytes", length)
	}
	return nil
}

// bitNumbers lists the bits that are set.
func bitNumbers(v uint64) string {
	var all []string
	for i := range 64 {
		if v>>i&1 != 0 {
			all = append(all, fmt.Sprintf("bit %d", i))
		}
	}
	return strings.Join(all, ", ")
}

// clusterSize is the unit in bytes in which the image is divided.
func (h header) clusterSize() uint64 { return 1 << h.clusterBits }

// inCluster are the bits of an offset that tell where in its cluster it is.
func (h header) inCluster() uint64 { return h.clusterSize() - 1 }

// entrySize is the size of an L2 entry in bytes.
func (h header) entrySize() uint64 {
	if h.extended {
		return 16
	}
	return 8
}

// l2Bits is the logarithm of the number of entries in an L2 table, which is one
// cluster.
func (h header) l2Bits() uint {
	if h.extended {
		return h.clusterBits - 4
	}
	return h.clusterBits - 3
}

// fits tells whether a range lies within a size. The sum may wrap.
func fits(off, length, size uint64) bool { return off <= size && length <= size-off }
