package interop

import (
	"encoding/json"
	"net"
	"os"
	"strings"
	"testing"
)

// exportInfo is a part of what nbdinfo --json says.
type exportInfo struct {
	Name      string   `json:"export-name"`
	Contexts  []string `json:"contexts"`
	Size      int64    `json:"export-size"`
	ReadOnly  bool     `json:"is_read_only"`
	Flush     bool     `json:"can_flush"`
	FUA       bool     `json:"can_fua"`
	Trim      bool     `json:"can_trim"`
	Zero      bool     `json:"can_zero"`
	DF        bool     `json:"can_df"`
	MultiConn bool     `json:"can_multi_conn"`
	Cache     bool     `json:"can_cache"`
	Minimum   int      `json:"block_size_minimum"`
	Preferred int      `json:"block_size_preferred"`
	Maximum   int      `json:"block_size_maximum"`
}

type serverInfo struct {
	Protocol   string       `json:"protocol"`
	Structured bool         `json:"structured"`
	Exports    []exportInfo `json:"exports"`
}

func nbdinfoJSON(t *testing.T, v any, args ...string) {
	t.Helper()
	out := must(t, "nbdinfo", append([]string{"--json"}, args...)...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
}

func TestInfo(t *testing.T) {
	disk := newImage(t, "disk.img", sparse(mib))
	s := start(t, config{volumes: []string{disk, "rw=" + disk + ",access=read-write", "memory:3G"}})
	want := []exportInfo{
		{Name: "disk.img", Size: mib, ReadOnly: true},
		{Name: "rw", Size: mib},
		{Name: "memory", Size: 3 << 30},
	}
	for i := range want {
		w := &want[i]
		w.Contexts = []string{"base:allocation"}
		w.FUA, w.Trim, w.Zero = !w.ReadOnly, !w.ReadOnly, !w.ReadOnly
		w.Flush, w.DF, w.MultiConn, w.Cache = true, true, true, true
		w.Minimum, w.Preferred, w.Maximum = 1, 4096, 32*mib
	}
	equal := func(t *testing.T, got serverInfo, want ...exportInfo) {
		t.Helper()
		if got.Protocol != "newstyle-fixed" || !got.Structured {
			t.Errorf("protocol %q, structured %v", got.Protocol, got.Structured)
		}
		a, _ := json.Marshal(got.Exports)
		b, _ := json.Marshal(want)
		if string(a) != string(b) {
			t.Errorf("the exports are\n%s, want\n%s", a, b)
		}
	}
	transports(t, func(t *testing.T, transport string) {
		for i, uri := range s.uris[transport] {
			var got serverInfo
			nbdinfoJSON(t, &got, uri)
			equal(t, got, want[i])
			if size := must(t, "nbdinfo", "--size", uri); size != itoa(want[i].Size)+"\n" {
				t.Errorf("--size says %q", size)
			}
		}
		var list serverInfo
		nbdinfoJSON(t, &list, "--list", s.uri(transport))
		equal(t, list, want...)

		base := strings.Replace(s.uri(transport), "disk.img", "", 1)
		var def serverInfo
		nbdinfoJSON(t, &def, base)
		if len(def.Exports) != 1 || def.Exports[0].Size != mib || !def.Exports[0].ReadOnly {
			t.Errorf("the default export is %+v", def.Exports)
		}
		r := do(t, command(t, "nbdinfo", strings.Replace(s.uri(transport), "disk.img", "nope", 1)))
		if r.code == 0 {
			t.Errorf("there is an export \"nope\": %s", r.stdout)
		}
		contains(t, r.stderr, `nope`)
	})
}

// TestMap compares what clients see with where the file has its holes.
func TestMap(t *testing.T) {
	extents := sparse(16 * mib)
	disk := newImage(t, "disk.img", extents)
	if allocated(t, disk) > 8*mib {
		t.Fatalf("the file system makes no holes in %s: set TMPDIR to one that does", disk)
	}
	s := start(t, config{volumes: []string{disk}})
	transports(t, func(t *testing.T, transport string) {
		var got []struct{ Offset, Length, Type int64 }
		nbdinfoJSON(t, &got, "--map", s.uri(transport))
		if len(got) != len(extents) {
			t.Fatalf("the map is %+v", got)
		}
		for i, e := range extents {
			typ := int64(3) // hole, zero
			if e.data {
				typ = 0
			}
			if g := got[i]; g.Offset != e.offset || g.Length != e.length || g.Type != typ {
				t.Errorf("extent %d is %+v, want %+v", i, g, e)
			}
		}
	})
	t.Run("empty memory", func(t *testing.T) {
		s := start(t, config{volumes: []string{"memory:8T"}})
		// 8 TiB are asked for in pieces; what comes is one hole.
		contains(t, must(t, "nbdinfo", "--map", "--totals", s.uri("tcp")), "8796093022208 100.0%   3 hole,zero")
	})
}

// TestOddNames: every printed URI leads to its volume.
func TestOddNames(t *testing.T) {
	names := []string{"two words", "50%41", "a?b#c&d", "a+b", "näme", "a:b@c", "a;b,c", `quo"te`}
	var volumes []string
	for i, name := range names {
		volumes = append(volumes, name+"=memory:"+itoa(int64(i+1)*512))
	}
	s := start(t, config{volumes: volumes})
	transports(t, func(t *testing.T, transport string) {
		for i, name := range names {
			uri := s.uris[transport][i]
			if got := strings.TrimSpace(must(t, "nbdinfo", "--size", uri)); got != itoa(int64(i+1)*512) {
				t.Errorf("%q at %s has the size %s", name, uri, got)
			}
		}
	})
}

// TestOddSocket: the same for the path of the socket, which qemu reads in
// another way than libnbd does.
func TestOddSocket(t *testing.T) {
	t.Parallel()
	path := shortDir(t) + "/a b+c%20d&e.sock"
	s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--listen", "unix://" + path}})
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	uri := s.uri("extra")
	contains(t, must(t, "nbdinfo", uri), "export-size: 1048576")
	contains(t, must(t, "qemu-img", "info", uri), "virtual size: 1 MiB")
}

func TestNbdClientLists(t *testing.T) {
	t.Parallel()
	s := start(t, config{volumes: []string{"one=memory:1M", "two words=memory:1M"}})
	host, port, err := net.SplitHostPort(s.tcp())
	if err != nil {
		t.Fatal(err)
	}
	contains(t, must(t, sbin("nbd-client"), "-l", host, port), "\none\n", "\ntwo words\n")
}
