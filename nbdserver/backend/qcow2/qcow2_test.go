package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/backend/backendtest"
)

// layouts are one of each kind.
var layouts = map[string]layout{
	"version 2":                {clusterBits: 16, v2: true},
	"version 3":                {clusterBits: 16},
	"smallest clusters":        {clusterBits: 9},
	"largest clusters":         {clusterBits: 21},
	"compressed":               {clusterBits: 16, compressed: true},
	"compressed, version 2":    {clusterBits: 12, v2: true, compressed: true},
	"compressed, small":        {clusterBits: 9, compressed: true},
	"compressed, large":        {clusterBits: 21, compressed: true},
	"extended":                 {clusterBits: 16, extended: true},
	"extended, smallest":       {clusterBits: 14, extended: true},
	"extended, and compressed": {clusterBits: 16, extended: true, compressed: true},
}

func TestBackend(t *testing.T) {
	for name, l := range layouts {
		t.Run(name, func(t *testing.T) {
			backendtest.Run(t, backendtest.Kind{ReadOnly: func(t *testing.T, content []byte) backend.Backend {
				return open(t, l.build(content))
			}})
		})
	}
}

// mixed is a content of data and zeroes in runs of all lengths.
func mixed(size int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, 0, size)
	for len(p) < size {
		run := make([]byte, 1+rng.IntN(3<<rng.IntN(17)))
		if rng.IntN(2) == 0 {
			for i := range run {
				run[i] = byte(rng.Uint32N(4)) // can be compressed
			}
		}
		p = append(p, run...)
	}
	return p[:size]
}

// TestReads reads from all places at a time, and compares with the content.
func TestReads(t *testing.T) {
	want := mixed(3<<20 + 321)
	for name, l := range layouts {
		t.Run(name, func(t *testing.T) {
			i := open(t, l.build(want))
			var group sync.WaitGroup
			for w := range uint64(4) {
				group.Go(func() {
					rng := rand.New(rand.NewPCG(w, 0))
					for range 60 {
						off := rng.IntN(len(want))
						got := bytes.Repeat([]byte{0xa5}, 1+rng.IntN(min(len(want)-off, 1<<rng.IntN(22))))
						if err := i.ReadAt(t.Context(), got, uint64(off)); err != nil {
							t.Error(err)
							return
						}
						if !bytes.Equal(got, want[off:off+len(got)]) {
							t.Errorf("the %d bytes at %d differ", len(got), off)
							return
						}
					}
				})
			}
			group.Wait()
		})
	}
}

// TestExtents compares the extents with how the image was laid out.
func TestExtents(t *testing.T) {
	const size = 1 << 16
	content := make([]byte, 5*size+100)
	content[2*size], content[2*size+size/2], content[5*size] = 1, 1, 1
	hole, zero, data := backend.Extent{Hole: true, Zero: true}, backend.Extent{Zero: true}, backend.Extent{}
	of := func(e backend.Extent, n uint64) backend.Extent { e.Length = n; return e }
	for name, want := range map[string][]backend.Extent{
		"version 3":  {of(hole, 2*size), of(data, size), of(hole, 2*size), of(data, 100)},
		"compressed": {of(hole, 2*size), of(data, size), of(hole, 2*size), of(data, 100)},
		"extended": {of(hole, 2*size), of(data, size/32), of(zero, size/2-size/32), of(data, size/32), of(zero, size/2-size/32),
			of(hole, 2*size), of(data, 100)},
	} {
		got, err := open(t, layouts[name].build(content)).Extents(t.Context(), 0, uint64(len(content)), 100)
		if err != nil || len(got) != len(want) {
			t.Errorf("%s: %+v, %v", name, got, err)
			continue
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s: extent %d is %+v, want %+v", name, i, got[i], want[i])
			}
		}
	}

	// A cluster that is zero and keeps its space.
	image := layout{clusterBits: 16}.build(content)
	entry := bytes.LastIndex(image[:4*size], []byte{0x80, 0, 0, 0, 0})
	image[entry+7] |= isZero
	i := open(t, image)
	got, err := i.Extents(t.Context(), 5*size, 100, 10)
	if err != nil || len(got) != 1 || got[0] != of(zero, 100) {
		t.Errorf("zero with space: %+v, %v", got, err)
	}
	p := []byte{7}
	if err := i.ReadAt(t.Context(), p, 5*size); err != nil || p[0] != 0 {
		t.Errorf("zero with space reads as %v, %v", p, err)
	}
}

// TestHuge opens the largest volume that clusters of a size are good for, of which
// nothing is there, and asks for the extents of all of it.
func TestHuge(t *testing.T) {
	for _, bits := range []uint{9, 16, 21} {
		l := layout{clusterBits: bits}
		image := l.build(nil)
		h := header{clusterBits: bits}
		size := uint64(maxL1) << (h.clusterBits + h.l2Bits())
		image = append(image, make([]byte, maxL1*8+int(h.clusterSize()))...)
		binary.BigEndian.PutUint64(image[24:], size)
		binary.BigEndian.PutUint32(image[36:], maxL1)
		i := open(t, image)
		if i.Info().Size != size {
			t.Fatalf("2^%d: size %d", bits, i.Info().Size)
		}
		calls := 0
		for off := uint64(0); off < size; calls++ {
			list, err := i.Extents(t.Context(), off, size-off, 10)
			if err != nil || len(list) != 1 || !list[0].Hole {
				t.Fatalf("2^%d: at %d: %+v, %v", bits, off, list, err)
			}
			off += list[0].Length
		}
		if calls > maxL1*8/chunk/maxChunks+1 {
			t.Errorf("2^%d: %d calls", bits, calls)
		}
		p := bytes.Repeat([]byte{1}, 5000)
		if err := i.ReadAt(t.Context(), p, size-5000); err != nil || bytes.Count(p, []byte{0}) != 5000 {
			t.Errorf("2^%d: the end: %v", bits, err)
		}
	}
}

// TestRefuses opens images that can't be exported, and reads why not.
func TestRefuses(t *testing.T) {
	be := binary.BigEndian
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		want   string
	}{
		"nothing":                 {func([]byte) []byte { return nil }, "is no qcow2 image"},
		"raw":                     {func(b []byte) []byte { b[0] = 'x'; return b }, "leave format out if it is raw"},
		"half a header":           {func(b []byte) []byte { return b[:80] }, "its header isn't complete"},
		"version 1":               {func(b []byte) []byte { b[7] = 1; return b }, "of version 1"},
		"version 4":               {func(b []byte) []byte { b[7] = 4; return b }, "of version 4"},
		"backing file":            {func(b []byte) []byte { be.PutUint64(b[8:], 200); be.PutUint32(b[16:], 11); return b }, "has a backing file, which is never opened"},
		"AES":                     {func(b []byte) []byte { b[35] = 1; return b }, "is encrypted"},
		"LUKS":                    {func(b []byte) []byte { b[35] = 2; return b }, "is encrypted"},
		"dirty":                   {func(b []byte) []byte { b[79] = featureDirty; return b }, "is marked as dirty"},
		"corrupt":                 {func(b []byte) []byte { b[79] = featureCorrupt; return b }, "is marked as corrupt: repair it"},
		"data file":               {func(b []byte) []byte { b[79] = featureDataFile; return b }, "has an external data file, which is never opened"},
		"zstd":                    {func(b []byte) []byte { b[79] = featureCompression; b[103] = 112; b[104] = 1; return b }, "compressed with zstd"},
		"compression 2":           {func(b []byte) []byte { b[79] = featureCompression; b[103] = 112; b[104] = 2; return b }, "compressed in a way that isn't known"},
		"feature 5":               {func(b []byte) []byte { b[79] = 1 << 5; return b }, "features that aren't known: bit 5"},
		"features":                {func(b []byte) []byte { b[72] = 0xc0; return b }, "bit 62, bit 63"},
		"short header":            {func(b []byte) []byte { b[103] = 72; return b }, "a header of 72 bytes"},
		"clusters 2^8":            {func(b []byte) []byte { b[23] = 8; return b }, "clusters of 2^8 bytes"},
		"clusters 2^22":           {func(b []byte) []byte { b[23] = 22; return b }, "clusters of 2^22 bytes"},
		"clusters 2^255":          {func(b []byte) []byte { b[23] = 255; return b }, "clusters of 2^255 bytes"},
		"extended 2^13":           {func(b []byte) []byte { b[79] = featureExtendedL2; b[23] = 13; return b }, "clusters of 2^13 bytes"},
		"size":                    {func(b []byte) []byte { be.PutUint64(b[24:], 1<<64-1); return b }, "has a volume of 18446744073709551615 bytes"},
		"L1 too short":            {func(b []byte) []byte { be.PutUint32(b[36:], 0); return b }, "0 entries in its L1 table"},
		"L1 too long":             {func(b []byte) []byte { be.PutUint32(b[36:], 1<<32-1); return b }, "4294967295 entries in its L1 table"},
		"L1 longer than the file": {func(b []byte) []byte { be.PutUint32(b[36:], maxL1); return b }, "isn't in its"},
		"L1 nowhere":              {func(b []byte) []byte { be.PutUint64(b[40:], 0); return b }, "isn't in its"},
		"L1 askew":                {func(b []byte) []byte { be.PutUint64(b[40:], 1<<16+8); return b }, "isn't in its"},
		"L1 beyond":               {func(b []byte) []byte { be.PutUint64(b[40:], 1<<63); return b }, "isn't in its"},
		"L1 that wraps":           {func(b []byte) []byte { be.PutUint64(b[40:], 1<<64-1<<16); return b }, "isn't in its"},
		"cut short":               {func(b []byte) []byte { return b[:1<<16] }, "is cut short or damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			image := c.change(layout{clusterBits: 16}.build(mixed(1 << 20)))
			i, err := Open(t.Context(), file(t, image))
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, %v; want %q", i, err, c.want)
			}
		})
	}
}

// TestSnapshotsAndExtensions: what an image has beside its current state changes
// nothing.
func TestSnapshotsAndExtensions(t *testing.T) {
	want := mixed(1 << 20)
	image := layout{clusterBits: 16}.build(want)
	binary.BigEndian.PutUint32(image[60:], 3)                  // snapshots
	binary.BigEndian.PutUint64(image[64:], 1<<40)              // nowhere
	binary.BigEndian.PutUint64(image[88:], 1)                  // bitmaps
	binary.BigEndian.PutUint64(image[80:], 1)                  // lazy refcounts
	copy(image[104:], "\xe2\x79\x2a\xca\xff\xff\xff\xffqcow2") // an extension without an end
	got := make([]byte, len(want))
	if err := open(t, image).ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("it doesn't read as it should: %v", err)
	}
}

// TestDamaged reads clusters whose entries lead nowhere. Others can still be read.
func TestDamaged(t *testing.T) {
	const size = 1 << 16
	content := bytes.Repeat([]byte{1}, 3*size)
	good := layout{clusterBits: 16}.build(content)
	const l1, l2 = size, 2 * size // where build puts them
	packed := layout{clusterBits: 16, compressed: true}.build(content)
	extended := layout{clusterBits: 16, extended: true}.build(content)
	for name, c := range map[string]struct {
		image []byte
		at    int
		entry uint64
	}{
		"L2 table beyond the end":        {good, l1, 1 << 40},
		"L2 table across the end":        {good[:len(good)-100], l1, uint64(len(good) - size)},
		"L2 table askew":                 {good, l1, l2 + 512},
		"L1 entry with reserved bits":    {good, l1, l2 | 1<<60},
		"cluster beyond the end":         {good, l2 + 8, 1 << 40},
		"cluster askew":                  {good, l2 + 8, 3*size + 512},
		"L2 entry with reserved bits":    {good, l2 + 8, 3*size | 2},
		"zero in version 2":              {layout{clusterBits: 16, v2: true}.build(content), l2 + 8, 3*size | isZero},
		"compressed beyond the end":      {packed, l2 + 8, isCompressed | 1<<40},
		"compressed nowhere":             {packed, l2 + 8, isCompressed},
		"compressed that isn't":          {packed, l2 + 8, isCompressed | l1 + 7},
		"compressed and cut off":         {packed, l2 + 8, isCompressed | uint64(len(packed)-1)},
		"zero in an extended entry":      {extended, l2 + 16, 3*size | isZero},
		"extended without a cluster":     {extended, l2 + 16, 0},
		"extended, zero and allocated":   {extended, l2 + 16 + 8, 1<<32 | 1},
		"extended, compressed, a bitmap": {extended, l2 + 16, isCompressed | size},
	} {
		t.Run(name, func(t *testing.T) {
			image := bytes.Clone(c.image)
			binary.BigEndian.PutUint64(image[c.at:], c.entry)
			i := open(t, image)
			p := make([]byte, size)
			if err := i.ReadAt(t.Context(), p, size); !errors.Is(err, ErrDamaged) {
				t.Errorf("read: %v", err)
			}
			list, err := i.Extents(t.Context(), size, size, 10)
			if compressed := strings.HasPrefix(name, "compressed"); err == nil && !compressed || len(list) > 0 && list[0].Zero {
				t.Errorf("extents: %+v, %v", list, err)
			}
			if c.at < l2 {
				return
			}
			if err := i.ReadAt(t.Context(), p[:size-1], 2*size+1); err != nil || !bytes.Equal(p[:size-1], content[:size-1]) {
				t.Errorf("another cluster: %v", err)
			}
			list, err = i.Extents(t.Context(), 0, 3*size, 10)
			if err != nil || len(list) == 0 {
				t.Errorf("extents up to the damage: %+v, %v", list, err)
			}
		})
	}
}

// TestBomb reads a cluster that would be decompressed to 64 MiB: no more than a
// cluster of it is.
func TestBomb(t *testing.T) {
	const size = 1 << 16
	image := layout{clusterBits: 16, compressed: true}.build(bytes.Repeat([]byte{1}, size))
	bomb := deflate(bytes.Repeat([]byte{7}, 64<<20))
	const at = 3 * size
	image = append(image[:at:at], bomb...)
	binary.BigEndian.PutUint64(image[2*size:], isCompressed|uint64(255)<<54|at)
	i := open(t, image)
	p := make([]byte, size)
	if err := i.ReadAt(t.Context(), p, 0); err != nil || bytes.Count(p, []byte{7}) != size {
		t.Errorf("%v", err)
	}
	if n := len(i.inflated.get(at)); n != size {
		t.Errorf("%d bytes of it are kept", n)
	}
}

// TestLastClusterIsShort: the end of a file need not be that of a cluster.
func TestLastClusterIsShort(t *testing.T) {
	const size = 1 << 16
	image := layout{clusterBits: 16}.build(bytes.Repeat([]byte{1}, 2*size))
	i := open(t, image[:len(image)-1000])
	p := make([]byte, 2*size)
	if err := i.ReadAt(t.Context(), p, 0); err != nil {
		t.Fatal(err)
	}
	if ones := bytes.Count(p, []byte{1}); ones != 2*size-1000 || p[2*size-1] != 0 {
		t.Errorf("%d bytes of data", ones)
	}
}
