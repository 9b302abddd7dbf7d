package qcow2

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// made reads an image that qemu-img 7.2 made. They hold a volume of 96 KiB, written by
//
//	qemu-io -f qcow2 -c 'write -P 0x11 0 4k' -c 'write -P 0x22 30000 10000' \
//	        -c 'write -z 32k 4k' -c 'write -P 0x33 97792 512' IMAGE
//
// with clusters of 512 bytes, 64 KiB (64k) or 16 KiB (extended). Those with a
// zlib or zstd are qemu-img convert -c of one of them; snapshot has been written to
// (0x44 from 8 KiB to 12 KiB) after an internal snapshot; truncated has the first
// 10,000 bytes of v3, and luks the first 2,048 of its image.
func made(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".qcow2.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	image, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// written is what qemu-io has written to them.
func written() []byte {
	p := make([]byte, 96<<10)
	fill := func(from, length int, with byte) { copy(p[from:from+length], bytes.Repeat([]byte{with}, length)) }
	fill(0, 4<<10, 0x11)
	fill(30000, 10000, 0x22)
	fill(32<<10, 4<<10, 0)
	fill(97792, 512, 0x33)
	return p
}

func TestImagesOfQemu(t *testing.T) {
	for _, name := range []string{"v2", "v3", "64k", "zlib", "extended", "extended-zlib", "snapshot"} {
		t.Run(name, func(t *testing.T) {
			want := written()
			if name == "snapshot" {
				copy(want[8<<10:], bytes.Repeat([]byte{0x44}, 4<<10))
			}
			i := open(t, made(t, name))
			got := make([]byte, len(want))
			if err := i.ReadAt(t.Context(), got, 0); err != nil || i.Info().Size != uint64(len(want)) || !bytes.Equal(got, want) {
				t.Fatalf("it doesn't read as qemu-io wrote it (%v): %+v", err, i.Info())
			}
			zeroes := uint64(0)
			list, err := i.Extents(t.Context(), 0, uint64(len(want)), 1000)
			if err != nil {
				t.Fatal(err)
			}
			off := uint64(0)
			for _, e := range list {
				if e.Zero {
					zeroes += e.Length
					if !bytes.Equal(want[off:off+e.Length], make([]byte, e.Length)) {
						t.Errorf("%d bytes at %d aren't zero", e.Length, off)
					}
				}
				off += e.Length
			}
			if name != "64k" && zeroes < 32<<10 || off != uint64(len(want)) {
				t.Errorf("%d bytes of %d are known to be zero: %+v", zeroes, off, list)
			}
		})
	}
}

func TestImagesOfQemuRefused(t *testing.T) {
	for name, want := range map[string]string{
		"backing":   "has a backing file",
		"data-file": "has an external data file",
		"luks":      "is encrypted",
		"zstd":      "compressed with zstd",
	} {
		if i, err := Open(t.Context(), file(t, made(t, name))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %q", name, i, err, want)
		}
	}
	i := open(t, made(t, "truncated"))
	p := make([]byte, 512)
	if err := i.ReadAt(t.Context(), p, 0); err != nil || p[0] != 0x11 {
		t.Errorf("the beginning of the truncated one: %v, %v", p[0], err)
	}
	if err := i.ReadAt(t.Context(), p, 97792); !errors.Is(err, ErrDamaged) {
		t.Errorf("the end of the truncated one: %v", err)
	}
}

// FuzzImage opens any bytes and reads from what opens: without a panic, nothing
// that says to be zero isn't, and extents have the form that Backend asks for.
func FuzzImage(f *testing.F) {
	files, err := filepath.Glob("testdata/*.qcow2.gz")
	if err != nil || len(files) == 0 {
		f.Fatalf("no images: %v", err)
	}
	for _, name := range files {
		f.Add(made(f, strings.TrimSuffix(filepath.Base(name), ".qcow2.gz")))
	}
	f.Add(layout{clusterBits: 9}.build(mixed(5000)))
	f.Add(layout{clusterBits: 9, compressed: true}.build(mixed(5000)))
	f.Add(layout{clusterBits: 14, extended: true}.build(mixed(5000)))
	f.Fuzz(func(t *testing.T, image []byte) {
		i, err := Open(t.Context(), file(t, image))
		if err != nil {
			return
		}
		size := i.Info().Size
		if size == 0 {
			return
		}
		for _, off := range []uint64{0, size / 2, size - min(size, 64<<10)} {
			checkRange(t, i, off, min(size-off, 64<<10))
			list, err := i.Extents(t.Context(), off, size-off, 16)
			checkExtents(t, list, err, size-off, 16)
		}
	})
}

// checkRange compares the extents of a range with what it reads as.
func checkRange(t *testing.T, i *Image, off, length uint64) {
	p := bytes.Repeat([]byte{0xa5}, int(length))
	readErr := i.ReadAt(t.Context(), p, off)
	list, err := i.Extents(t.Context(), off, length, 1000)
	checkExtents(t, list, err, length, 1000)
	if readErr != nil {
		return
	}
	if err != nil {
		t.Fatalf("%d bytes at %d can be read, and have no extents: %v", length, off, err)
	}
	for _, e := range list {
		if part := p[:e.Length]; e.Zero && bytes.Count(part, []byte{0}) != len(part) {
			t.Fatalf("%d bytes at %d aren't zero", e.Length, off)
		}
		p, off = p[e.Length:], off+e.Length
	}
}

func checkExtents(t *testing.T, list []backend.Extent, err error, length uint64, most int) {
	if err != nil {
		return
	}
	total := uint64(0)
	for _, e := range list {
		if e.Length == 0 || e.Length > length-total {
			t.Fatalf("extents of %d bytes: %+v", length, list)
		}
		total += e.Length
	}
	if len(list) == 0 || len(list) > most {
		t.Fatalf("%d extents of %d bytes", len(list), length)
	}
}
