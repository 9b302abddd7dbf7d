package qcow2

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/backend/memory"
)

// layout is how make lays out an image.
type layout struct {
	clusterBits uint
	v2          bool
	extended    bool
	compressed  bool
}

// build makes an image of a content. Clusters of zeroes are left out, every second
// of them marked as zero where the version can do that; of extended ones it is
// those 32nds that are left out.
func (l layout) build(content []byte) []byte {
	h := header{clusterBits: l.clusterBits, extended: l.extended, size: uint64(len(content)), version: 3}
	size := int(h.clusterSize())
	clusters := (len(content) + size - 1) / size
	tables := (clusters + 1<<h.l2Bits() - 1) >> h.l2Bits()
	l1 := size
	out := make([]byte, l1+(tables*8+size-1)/size*size)
	put32 := func(at int, v uint32) { binary.BigEndian.PutUint32(out[at:], v) }
	put64 := func(at int, v uint64) { binary.BigEndian.PutUint64(out[at:], v) }
	copy(out, "QFI\xfb")
	put32(4, 3)
	put32(20, uint32(l.clusterBits))
	put64(24, h.size)
	put32(36, uint32(tables))
	put64(40, uint64(l1))
	put32(96, 4)    // refcount_order
	put32(100, 104) // header_length
	if l.extended {
		put64(72, featureExtendedL2)
	}
	if l.v2 {
		put32(4, 2)
		clear(out[72:104])
	}
	for c := range clusters {
		data := make([]byte, size)
		copy(data, content[c*size:])
		table := c >> h.l2Bits()
		at := int(binary.BigEndian.Uint64(out[l1+table*8:]) & offsetBits)
		if at == 0 {
			at = len(out)
			put64(l1+table*8, uint64(at)|1<<63)
			out = append(out, make([]byte, size)...)
		}
		at += c & (1<<h.l2Bits() - 1) * int(h.entrySize())
		zero := bytes.Count(data, []byte{0}) == size
		switch {
		case zero && c%2 == 0 && !l.v2 && !l.extended:
			put64(at, isZero)
		case zero && c%2 == 0 && l.extended:
			put64(at+8, 0xffffffff<<32)
		case zero:
		case l.compressed:
			packed := deflate(data)
			if len(out)%512 == 0 {
				out = append(out, 0) // so that none begins with a sector
			}
			bits := 62 - (l.clusterBits - 8)
			sectors := (len(out)%512 + len(packed) - 1) / 512
			put64(at, isCompressed|uint64(sectors)<<bits|uint64(len(out)))
			out = append(out, packed...)
			if len(out)%size > size/2 {
				out = append(out, make([]byte, size-len(out)%size)...)
			}
		default:
			put64(at, uint64(len(out))|1<<63)
			if l.extended {
				put64(at+8, uint64(bitmap(data)))
			}
			out = append(out, data...)
		}
		if pad := len(out) % size; pad != 0 {
			out = append(out, make([]byte, size-pad)...)
		}
	}
	return out
}

// bitmap has the 32nds of a cluster that aren't zero.
func bitmap(data []byte) (bits uint32) {
	n := len(data) / subclusters
	for i := range subclusters {
		if part := data[i*n:][:n]; bytes.Count(part, []byte{0}) != n {
			bits |= 1 << i
		}
	}
	return bits
}

func deflate(data []byte) []byte {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err)
	}
	return b.Bytes()
}

// file is a volume that holds an image.
func file(t testing.TB, image []byte) backend.Backend {
	t.Helper()
	f, err := memory.New(uint64(max(len(image), 1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.WriteAt(t.Context(), image, 0); err != nil {
		t.Fatal(err)
	}
	return f
}

func open(t testing.TB, image []byte) *Image {
	t.Helper()
	i, err := Open(t.Context(), file(t, image))
	if err != nil {
		t.Fatal(err)
	}
	return i
}
