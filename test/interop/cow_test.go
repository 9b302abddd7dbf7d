package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// copyOnWrite is the argument for such a volume.
func copyOnWrite(name, image, scratch string) string {
	return name + "=" + image + ",access=copy-on-write,scratch=" + scratch
}

// openFiles are the files that the server has open below a path, by descriptor:
// how it may use them, O_RDONLY or O_RDWR.
func (s *server) openFiles(path string) map[string]int {
	s.t.Helper()
	proc := "/proc/" + itoa(int64(s.cmd.Process.Pid))
	all, err := os.ReadDir(proc + "/fd")
	if err != nil {
		s.t.Fatal(err)
	}
	found := map[string]int{}
	for _, fd := range all {
		to, err := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
		if err != nil || !strings.HasPrefix(to, path) {
			continue
		}
		info, err := os.ReadFile(filepath.Join(proc, "fdinfo", fd.Name()))
		if err != nil {
			s.t.Fatal(err)
		}
		var pos, flags int
		if _, err := fmt.Sscanf(string(info), "pos: %d\nflags: %o", &pos, &flags); err != nil {
			s.t.Fatalf("%v in %s", err, info)
		}
		found[fd.Name()] = flags & syscall.O_ACCMODE
	}
	return found
}

func emptyDir(t *testing.T, dir string) {
	t.Helper()
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("%s holds %v (%v)", dir, names, err)
	}
}

// TestCopyOnWrite writes to two copy-on-write volumes of one image. Each has its
// own changes, for all its clients; the image and the directory of the scratch
// have none of them, however the server ends.
func TestCopyOnWrite(t *testing.T) {
	const size = 64 * mib
	for name, sig := range map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGKILL": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := newImage(t, "golden.img", sparse(size))
			before, scratch := fileHash(t, image), t.TempDir()
			s := start(t, config{volumes: []string{copyOnWrite("a", image, scratch), copyOnWrite("b", image, scratch)}})
			a, b := s.uris["tcp"][0], s.uris["tcp"][1]

			must(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", image, a)
			must(t, "qemu-io", "-f", "raw",
				"-c", "write -f -P 0x11 1M 64k", // over data
				"-c", "write -P 0x22 12345678 777", // over a hole, unaligned
				"-c", "write -z -u 2M 1M",
				"-c", "write -z 3200k 1",
				"-c", "discard 4M 128k",
				"-c", "flush",
				"-c", "read -P 0x11 1M 64k", a)
			must(t, "qemu-io", "-f", "raw", // another client
				"-c", "read -P 0x11 1M 64k", "-c", "read -P 0x22 12345678 777", "-c", "read -P 0 12345600 78",
				"-c", "read -P 0 2M 1M", "-c", "read -P 0 3200k 1", "-c", "read -P 0 4M 128k", s.uris["unix"][0])

			out := filepath.Join(t.TempDir(), "out.img")
			must(t, "nbdcopy", a, out) // sees the same as qemu-io
			must(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", out, a)
			must(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", image, b)
			other := newImage(t, "other.img", []extent{{0, size / 2, false}, {size / 2, size / 2, true}})
			must(t, "nbdcopy", "--flush", other, b)
			must(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", other, b)
			must(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", out, a)

			for path, access := range map[string]int{image: syscall.O_RDONLY, scratch + "/": syscall.O_RDWR} {
				files := s.openFiles(path)
				if len(files) != 2 {
					t.Errorf("the server has the files %v open at %s", files, path)
				}
				for _, a := range files {
					if a != access {
						t.Errorf("the server has opened %s for %d, not %d", path, a, access)
					}
				}
			}
			emptyDir(t, scratch)
			s.signal(sig)
			<-s.done
			if sig == syscall.SIGTERM {
				s.ended(0, "signal=SIGTERM")
			}
			emptyDir(t, scratch)
			if fileHash(t, image) != before {
				t.Error("the image has changed")
			}
		})
	}
}

// TestCopyOnWriteMap: the map of the volume is that of the image with what was
// written, and what was zeroed.
func TestCopyOnWriteMap(t *testing.T) {
	t.Parallel()
	const size = 64 * mib // data to 8M, from 24M to 32M
	s := start(t, config{volumes: []string{copyOnWrite("a", newImage(t, "golden.img", sparse(size)), t.TempDir())}})
	must(t, "qemu-io", "-f", "raw", "-c", "write 40M 64k", "-c", "write -z -u 1M 1M", "-c", "write 24M 1M", "-c", "discard 30M 2M", s.uri("tcp"))
	var got []struct {
		Start, Length int64
		Data, Zero    bool
	}
	out := must(t, "qemu-img", "map", "--output=json", "-f", "raw", s.uri("tcp"))
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	const k = 1 << 10
	want := []extent{
		{0, mib, true}, {mib, mib, false}, {2 * mib, 6 * mib, true}, {8 * mib, 16 * mib, false},
		{24 * mib, 6 * mib, true}, {30 * mib, 10 * mib, false}, {40 * mib, 64 * k, true}, {40*mib + 64*k, 24*mib - 64*k, false},
	}
	if len(got) != len(want) {
		t.Fatalf("the map is %s", out)
	}
	for i, w := range want {
		if g := got[i]; g.Start != w.offset || g.Length != w.length || g.Data != w.data || g.Zero == w.data {
			t.Errorf("extent %d is %+v, want %+v", i, g, w)
		}
	}
}

// TestScratchIsFull: by its limit and by the disk. A program is told ENOSPC, and
// everything else goes on.
func TestScratchIsFull(t *testing.T) {
	t.Parallel()
	image := newImage(t, "golden.img", sparse(64*mib))
	before := fileHash(t, image)
	for name, volume := range map[string]func(t *testing.T) string{
		"limit": func(t *testing.T) string { return copyOnWrite("a", image, t.TempDir()) + ",scratch-size=8M" },
		"disk":  func(t *testing.T) string { return copyOnWrite("a", image, mounted(t, "tmpfs", "tmpfs", "size=8m")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := freePort(t)
			s := start(t, config{volumes: []string{volume(t)}, flags: []string{"--http", addr}})
			nbdsh(t, "scratchfull.py", s.uri("unix"), itoa(8*mib))
			_, page := ask(t, "GET", "http://"+addr+"/metrics")
			contains(t, page, `nbd_server_requests_total{command="write",export="a",result="enospc"} 2`, `nbd_server_scratch_refused_total{export="a"} 2`,
				`nbd_server_scratch_bytes{export="a"} 0`)
			if e := s.status().Exports[0]; e.ScratchBytes == nil || *e.ScratchBytes != 0 || (e.ScratchLimit != nil) != (name == "limit") {
				t.Errorf("the status of the export is %+v", e)
			}
			s.signal(syscall.SIGTERM)
			s.wait(0)
			contains(t, s.stderr.String(), "no space left on device")
			if fileHash(t, image) != before {
				t.Error("the image has changed")
			}
		})
	}
}
