package main

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/filter/cow"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

func TestParseVolume(t *testing.T) {
	long := strings.Repeat("n", wire.MaxString)
	tests := []struct {
		arg  string
		want volume
	}{
		{"disk.img", volume{name: "disk.img", path: "disk.img", readOnly: true}},
		{"/srv/disk.img", volume{name: "disk.img", path: "/srv/disk.img", readOnly: true}},
		{"vda=/srv/disk.img", volume{name: "vda", path: "/srv/disk.img", readOnly: true}},
		{"vda=/dev/x,access=read-write", volume{name: "vda", path: "/dev/x"}},
		{"vda=/dev/x,access=read-only", volume{name: "vda", path: "/dev/x", readOnly: true}},
		{"vda=a.img,root=/data", volume{name: "vda", path: "a.img", root: "/data", readOnly: true}},
		{"vda=a.img,root=/data,access=read-write", volume{name: "vda", path: "a.img", root: "/data"}},
		{"vda=a.img,access=read-write,root=/data", volume{name: "vda", path: "a.img", root: "/data"}},
		{"vda=a.img,tls=require", volume{name: "vda", path: "a.img", readOnly: true, tls: true}},
		{"memory:1M,tls=require,access=read-only", volume{name: "memory", memory: true, size: 1 << 20, readOnly: true, tls: true}},
		{"vda=a.img,access=copy-on-write", volume{name: "vda", path: "a.img", cow: true}},
		{"vda=a.img,scratch-size=1G,scratch=/scratch,root=/data,access=copy-on-write", volume{name: "vda", path: "a.img", root: "/data",
			cow: true, scratch: cow.Options{Dir: "/scratch", Limit: 1 << 30}}},
		{"vda=a.qcow2,format=qcow2", volume{name: "vda", path: "a.qcow2", readOnly: true, qcow2: true}},
		{"vda=a.qcow2,format=qcow2,access=copy-on-write", volume{name: "vda", path: "a.qcow2", qcow2: true, cow: true}},
		{"vda=a.qcow2,format=raw,access=read-write", volume{name: "vda", path: "a.qcow2"}},
		{"memory:1G,format=raw", volume{name: "memory", memory: true, size: 1 << 30}},
		{"two words=x", volume{name: "two words", path: "x", readOnly: true}},
		{long + "=x", volume{name: long, path: "x", readOnly: true}},

		// A path may hold what else has a meaning here.
		{"./a=b.img", volume{name: "a=b.img", path: "./a=b.img", readOnly: true}},
		{"/srv/a=b.img", volume{name: "a=b.img", path: "/srv/a=b.img", readOnly: true}},
		{"vda=a=b.img", volume{name: "vda", path: "a=b.img", readOnly: true}},
		{"/srv/a,b.img", volume{name: "a,b.img", path: "/srv/a,b.img", readOnly: true}},
		{"/srv/a,b=c.img", volume{name: "a,b=c.img", path: "/srv/a,b=c.img", readOnly: true}},
		{"/srv/a,b,access=read-write", volume{name: "a,b", path: "/srv/a,b"}},
		{"./memory:1G", volume{name: "memory:1G", path: "./memory:1G", readOnly: true}},

		{"memory:1G", volume{name: "memory", memory: true, size: 1 << 30}},
		{"scratch=memory:512", volume{name: "scratch", memory: true, size: 512}},
		{"swap=memory:1M,access=copy-on-write,scratch-size=64K", volume{name: "swap", memory: true, size: 1 << 20, cow: true, scratch: cow.Options{Limit: 1 << 16}}},
		{"scratch=memory:1M,access=read-only", volume{name: "scratch", memory: true, size: 1 << 20, readOnly: true}},
	}
	for _, tt := range tests {
		if got, err := parseVolume(tt.arg); err != nil || got != tt.want {
			t.Errorf("parseVolume(%.60q) = %+v, %v; want %+v", tt.arg, got, err, tt.want)
		}
	}
}

func TestParseVolumeRefuses(t *testing.T) {
	tests := []struct{ arg, why string }{
		{"", "the source is missing"},
		{"vda=", "the source is missing"},
		{",access=read-write", "the source is missing"},
		{"=/srv/disk.img", "the name before the = is empty"},
		{"memory:", "is no size"},
		{"memory:lots", "is no size"},
		{"vda=memory:1G,root=/data", "root goes with a file"},
		{"vda=a.img,root=", "root goes with a file"},
		{"a.img,access=rw", `not "rw"`},
		{"a.img,access=", `not ""`},
		{"a.img,access=read-only,access=read-write", "access is given twice"},
		{"a.img,root=/a,root=/b", "root is given twice"},
		{"a.img,tls=off", `not "off"`},
		{"a.img,tls=", `not ""`},
		{"a.img,format=vmdk", `not "vmdk"`},
		{"a.img,format=", `not ""`},
		{"a.img,format=raw,format=qcow2", "format is given twice"},
		{"a.img,format=qcow2,access=read-write", "a qcow2 image is only read"},
		{"memory:1M,format=qcow2", "memory has no format"},
		{"memory:1M,access=read-only,format=qcow2", "memory has no format"},
		{"a.img,scratch=/s", "go with access=copy-on-write"},
		{"a.img,access=read-write,scratch-size=1G", "go with access=copy-on-write"},
		{"a.img,access=copy-on-write,scratch=", "scratch names a directory"},
		{"a.img,access=copy-on-write,scratch-size=lots", `scratch-size: "lots" is no size`},
		{"a.img,access=copy-on-write,scratch=/a,scratch=/b", "scratch is given twice"},
		{strings.Repeat("n", wire.MaxString+1) + "=x", "a name is at most 4096 bytes"},
		{"\xff=x", "UTF-8"},
	}
	for _, tt := range tests {
		got, err := parseVolume(tt.arg)
		if err == nil || !strings.Contains(err.Error(), tt.why) || !strings.Contains(err.Error(), "volume ") {
			t.Errorf("parseVolume(%.60q) = %+v, %v; want an error with %q", tt.arg, got, err, tt.why)
		}
	}
}

func TestParseSize(t *testing.T) {
	good := map[string]uint64{
		"1": 1, "512": 512, "1K": 1 << 10, "1Ki": 1 << 10, "3M": 3 << 20, "64Mi": 64 << 20,
		"10G": 10 << 30, "2T": 2 << 40, "1P": 1 << 50, "8191P": 8191 << 50,
		"9223372036854775807": math.MaxInt64,
	}
	for s, want := range good {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", "0", "0K", "-1", "+1", "1.5G", "1e3", "0x10", "K", "Ki", "i", "1i", "1k", "1KB", "1E", "1KK", " 1", "1 ",
		"8192P", "9223372036854775808", "99999999999999999999",
	} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", s, got)
		}
	}
}

func TestParseVolumes(t *testing.T) {
	all, err := parseVolumes([]string{"a.img", "b=a.img", "memory:1K"})
	if err != nil || len(all) != 3 || all[0].name != "a.img" || all[1].name != "b" || all[2].name != "memory" {
		t.Errorf("three volumes: %+v, %v", all, err)
	}
	for name, args := range map[string][]string{
		"no volume":             {},
		`the same name "a.img"`: {"/x/a.img", "/y/a.img"},
		`the same name "b"`:     {"b=a.img", "b=memory:1K"},
		"the source is missing": {"a.img", ""},
	} {
		if _, err := parseVolumes(args); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("parseVolumes(%q): %v; want an error with %q", args, err, name)
		}
	}
}

func TestOpenVolumes(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "disk"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	exports, err := openVolumes([]volume{
		{name: "a", path: "disk", root: dir, readOnly: true},
		{name: "b", memory: true, size: 4096},
	})
	if err != nil {
		t.Fatal(err)
	}
	a, b := exports[0], exports[1]
	if a.Name != "a" || !a.ReadOnly || a.Backend.Info().Size != 1<<20 {
		t.Errorf("the file: %+v, %+v", a, a.Backend.Info())
	}
	if b.Name != "b" || b.ReadOnly || b.Backend.Info().Size != 4096 {
		t.Errorf("the memory: %+v, %+v", b, b.Backend.Info())
	}
	for _, e := range exports {
		e.Backend.Close()
	}
	_, err = openVolumes([]volume{{name: "b", memory: true, size: 4096}, {name: "a", path: "../disk", root: filepath.Join(dir, "sub")}})
	if err == nil || strings.Count(err.Error(), "volume") != 1 {
		t.Errorf("a volume that can't be opened: %v", err)
	}
}

// TestOpenCopyOnWrite: two volumes of one file know nothing of each other, and the
// file needn't be writable.
func TestOpenCopyOnWrite(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "disk"), make([]byte, 1<<20), 0o400); err != nil {
		t.Fatal(err)
	}
	v := volume{name: "a", path: "disk", root: dir, cow: true, scratch: cow.Options{Dir: t.TempDir()}}
	limited := v
	limited.name, limited.scratch.Limit = "b", 1<<16
	inMemory := volume{name: "c", memory: true, size: 1 << 20, cow: true, scratch: v.scratch}
	exports, err := openVolumes([]volume{v, limited, inMemory})
	if err != nil {
		t.Fatal(err)
	}
	defer closeVolumes(exports)
	p := make([]byte, 4)
	for i, limit := range []uint64{0, 1 << 16, 0} {
		e := exports[i]
		if err := e.Backend.WriteAt(t.Context(), []byte(e.Name+"..."), 5); err != nil || e.ReadOnly || e.Backend.Info().ReadOnly {
			t.Errorf("%q can't be written to: %v, %+v", e.Name, err, e.Backend.Info())
		}
		if used, got := e.Backend.(backend.Scratch).Scratch(); used != 1<<16 || got != limit {
			t.Errorf("the scratch of %q holds %d bytes of %d", e.Name, used, got)
		}
	}
	for _, e := range exports {
		if err := e.Backend.ReadAt(t.Context(), p, 5); err != nil || string(p) != e.Name+"..." {
			t.Errorf("%q reads as %q (%v)", e.Name, p, err)
		}
	}
	v.scratch.Dir = "/nonexistent"
	if _, err := openVolumes([]volume{v}); err == nil || err.Error() != `volume "a": scratch in "/nonexistent": no such file or directory` {
		t.Errorf("a scratch that isn't there: %v", err)
	}
}

// FuzzParseVolume checks what holds for every argument that is accepted.
func FuzzParseVolume(f *testing.F) {
	f.Fuzz(func(t *testing.T, arg string) {
		v, err := parseVolume(arg)
		if err != nil {
			if v, err2 := parseVolume(arg); err2 == nil {
				t.Fatalf("refused once (%v), then read as %+v", err, v)
			}
			return
		}
		switch {
		case v.name == "" || len(v.name) > wire.MaxString:
			t.Errorf("the name has %d bytes", len(v.name))
		case v.memory && (v.path != "" || v.root != "" || v.size == 0 || v.size > math.MaxInt64):
			t.Errorf("a volume in memory: %+v", v)
		case !v.memory && (v.path == "" || v.size != 0):
			t.Errorf("a file: %+v", v)
		case v.qcow2 && (v.memory || !v.readOnly && !v.cow):
			t.Errorf("an image: %+v", v)
		case v.cow && v.readOnly || !v.cow && v.scratch != cow.Options{}:
			t.Errorf("a scratch: %+v", v)
		}
		if v.memory {
			return
		}
		// Written out with all options, a file is the same volume again: the
		// options at the end shield what looks like one in the path.
		access := "read-write"
		if v.readOnly {
			access = "read-only"
		}
		if v.cow {
			access = "copy-on-write"
		}
		full := v.path + ",access=" + access
		if v.qcow2 {
			full += ",format=qcow2"
		}
		if v.scratch.Dir != "" {
			full += ",scratch=" + v.scratch.Dir
		}
		if v.scratch.Limit != 0 {
			full += ",scratch-size=" + strconv.FormatUint(v.scratch.Limit, 10)
		}
		if v.root != "" {
			full += ",root=" + v.root
		}
		if v.tls {
			full += ",tls=require"
		}
		if strings.ContainsAny(v.name, "/=") || strings.Contains(v.root+v.scratch.Dir, ",") {
			return // can't be written out
		}
		if again, err := parseVolume(v.name + "=" + full); err != nil || again != v {
			t.Errorf("%q is %+v, but %q is %+v, %v", arg, v, v.name+"="+full, again, err)
		}
	})
}
