package interop

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// qcow2Image makes an image of a raw one.
func qcow2Image(t *testing.T, raw string, options ...string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk.qcow2")
	must(t, "qemu-img", append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, options...), raw, image)...)
	return image
}

// qcow2Layouts are the kinds of images that can be exported.
var qcow2Layouts = map[string][]string{
	"version 2":            {"-o", "compat=0.10"},
	"version 3":            {"-o", "compat=1.1"},
	"preallocated":         {"-S", "0", "-o", "preallocation=full"},
	"preallocated tables":  {"-S", "0", "-o", "preallocation=metadata,lazy_refcounts=on"},
	"small clusters":       {"-o", "cluster_size=512"},
	"large clusters":       {"-o", "cluster_size=2M"},
	"compressed":           {"-c"},
	"compressed, small":    {"-c", "-o", "cluster_size=4k"},
	"compressed, large":    {"-c", "-o", "cluster_size=2M"},
	"extended":             {"-o", "extended_l2=on"},
	"extended, compressed": {"-c", "-o", "extended_l2=on,cluster_size=16k"},
}

// TestQcow2 exports images of all kinds: what clients read is what qemu reads from
// the file.
func TestQcow2(t *testing.T) {
	const size = 32*mib + 512
	for name, options := range qcow2Layouts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := qcow2Image(t, newImage(t, "raw.img", sparse(size)), options...)
			must(t, "qemu-io", "-f", "qcow2", "-c", "write -z 100k 1M", "-c", "write -P 0x5a 3333333 77777", "-c", "discard 2M 1M", image)
			before := fileHash(t, image)
			s := start(t, config{volumes: []string{"disk=" + image + ",format=qcow2"}})
			must(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, s.uri("tcp"))
			out := filepath.Join(t.TempDir(), "out.img")
			must(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", s.uri("tcp"), out)
			must(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, out)
			copied := filepath.Join(t.TempDir(), "copied.img")
			must(t, "nbdcopy", s.uri("unix"), copied)
			must(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", out, copied)
			if strings.Contains(must(t, "nbdinfo", s.uri("tcp")), "is_read_only: false") {
				t.Error("it can be written to")
			}
			s.signal(syscall.SIGTERM)
			s.ended(0, "signal=SIGTERM")
			if fileHash(t, image) != before {
				t.Error("the image has changed")
			}
		})
	}
}

// mapped is an extent as "qemu-img map --output=json" has it.
type mapped struct {
	Start, Length uint64
	Zero, Data    bool
}

func qemuMap(t *testing.T, format, of string) (list []mapped) {
	t.Helper()
	if err := json.Unmarshal([]byte(must(t, "qemu-img", "map", "--output=json", "-f", format, of)), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// TestQcow2Map: what qemu finds to be zero in the file, it finds to be zero in the
// export, and nothing else.
func TestQcow2Map(t *testing.T) {
	for _, name := range []string{"version 2", "version 3", "small clusters", "large clusters", "extended"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := qcow2Image(t, newImage(t, "raw.img", sparse(32*mib)), qcow2Layouts[name]...)
			must(t, "qemu-io", "-f", "qcow2", "-c", "write -z 8M 1M", "-c", "write -z 100k 128k", image)
			s := start(t, config{volumes: []string{"disk=" + image + ",format=qcow2"}})
			zero := func(list []mapped) (out []mapped) {
				for _, e := range list {
					if n := len(out); n > 0 && out[n-1].Zero == e.Zero {
						out[n-1].Length += e.Length
					} else {
						out = append(out, mapped{Start: e.Start, Length: e.Length, Zero: e.Zero})
					}
				}
				return out
			}
			want, got := zero(qemuMap(t, "qcow2", image)), zero(qemuMap(t, "raw", s.uri("tcp")))
			if len(got) != len(want) || len(want) < 3 {
				t.Fatalf("%+v, want %+v", got, want)
			}
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("%+v, want %+v", got[i], want[i])
				}
			}
		})
	}
}

// TestQcow2CopyOnWrite writes to a volume over an image, which stays as it is.
func TestQcow2CopyOnWrite(t *testing.T) {
	t.Parallel()
	image := qcow2Image(t, newImage(t, "raw.img", sparse(32*mib)), "-c")
	before := fileHash(t, image)
	s := start(t, config{volumes: []string{copyOnWrite("a", image, t.TempDir()) + ",format=qcow2"}})
	must(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, s.uri("tcp"))
	must(t, "qemu-io", "-f", "raw", "-c", "write -P 0x11 100000 5000", "-c", "read -P 0x11 100000 5000", s.uri("tcp"))
	s.signal(syscall.SIGTERM)
	s.ended(0, "signal=SIGTERM")
	if fileHash(t, image) != before {
		t.Error("the image has changed")
	}
}

// TestQcow2IsNotGuessed: a raw volume with the header of an image in it is what it
// is, and an image that names another file is refused before anybody can connect.
func TestQcow2IsNotGuessed(t *testing.T) {
	t.Parallel()
	secret := newImage(t, "secret.img", sparse(mib))
	image := filepath.Join(t.TempDir(), "disk.qcow2")
	must(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", image)
	s := start(t, config{volumes: []string{"disk=" + image}})
	must(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", image, s.uri("tcp"))
	s.signal(syscall.SIGTERM)
	s.ended(0, "signal=SIGTERM")

	refused(t, command(t, raceBinary, "serve", "disk="+image+",format=qcow2"), []string{`volume "disk": ` + image + " has a backing file, which is never opened"})
}
