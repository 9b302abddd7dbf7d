package interop

import (
	"crypto/sha256"
	"io"
	"os"
	"testing"
)

// TestCopy takes an image out of the server and puts it into another volume,
// with several connections and many requests at a time, as nbdcopy does.
func TestCopy(t *testing.T) {
	const size = 128 * mib
	image := newImage(t, "disk.img", sparse(size))
	transports(t, func(t *testing.T, transport string) {
		target := newHole(t, "target.img", size)
		s := start(t, config{volumes: []string{
			image, "target=" + target + ",access=read-write", "memory:128M",
		}})
		disk, file, memory := s.uris[transport][0], s.uris[transport][1], s.uris[transport][2]
		dir := t.TempDir()

		out := dir + "/out.img"
		must(t, "nbdcopy", disk, out)
		sameFile(t, image, out)
		if n := allocated(t, out); n > size/2 {
			t.Errorf("the copy takes %d bytes", n)
		}

		must(t, "nbdcopy", "--flush", image, file)
		sameFile(t, image, target)
		if n := allocated(t, target); n > size/2 {
			t.Errorf("the volume takes %d bytes", n)
		}

		must(t, "nbdcopy", disk, memory) // from NBD to NBD
		back := dir + "/back.img"
		must(t, "nbdcopy", "--connections=2", "--requests=16", memory, back)
		sameFile(t, image, back)
		contains(t, must(t, "nbdinfo", "--map", "--totals", memory), "hole,zero")

		if r := do(t, command(t, "nbdcopy", image, disk)); r.code == 0 {
			t.Error("nbdcopy wrote to a read-only volume")
		}
		st := s.status()
		if w := st.Exports[0].BytesWritten; w != 0 {
			t.Errorf("%d bytes were written to the read-only volume", w)
		}
		if r, w := st.Exports[2].BytesRead, st.Exports[2].BytesWritten; r < size/4 || w < size/4 {
			t.Errorf("%d bytes were read from memory and %d written to it", r, w)
		}
	})
}

// TestCopyOverData: what the volume held before is gone, holes included.
func TestCopyOverData(t *testing.T) {
	t.Parallel()
	const size = 16 * mib
	image := newImage(t, "disk.img", sparse(size))
	target := newImage(t, "target.img", []extent{{0, size, true}})
	s := start(t, config{volumes: []string{target + ",access=read-write"}})
	must(t, "nbdcopy", "--flush", image, s.uri("tcp"))
	sameFile(t, image, target)
}

// fileHash is the content of a file in short.
func fileHash(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return hash(t, f)
}

func hash(t *testing.T, r io.Reader) (sum [sha256.Size]byte) {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	h.Sum(sum[:0])
	return sum
}
