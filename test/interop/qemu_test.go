package interop

import (
	"encoding/json"
	"testing"
)

func TestQemuImg(t *testing.T) {
	const size = 64 * mib
	extents := sparse(size)
	image := newImage(t, "disk.img", extents)
	transports(t, func(t *testing.T, transport string) {
		target := newHole(t, "target.img", size)
		s := start(t, config{volumes: []string{image, "target=" + target + ",access=read-write"}})
		disk, file := s.uris[transport][0], s.uris[transport][1]
		dir := t.TempDir()

		var info struct {
			Size   int64  `json:"virtual-size"`
			Format string `json:"format"`
		}
		if err := json.Unmarshal([]byte(must(t, "qemu-img", "info", "--output=json", disk)), &info); err != nil || info.Size != size || info.Format != "raw" {
			t.Errorf("info: %+v, %v", info, err)
		}

		var parts []struct {
			Start, Length int64
			Data          bool
		}
		if err := json.Unmarshal([]byte(must(t, "qemu-img", "map", "--output=json", "-f", "raw", disk)), &parts); err != nil || len(parts) != len(extents) {
			t.Fatalf("map: %+v, %v", parts, err)
		}
		for i, e := range extents {
			if p := parts[i]; p.Start != e.offset || p.Length != e.length || p.Data != e.data {
				t.Errorf("map: extent %d is %+v, want %+v", i, p, e)
			}
		}

		must(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, dir+"/out.qcow2")
		must(t, "qemu-img", "compare", disk, dir+"/out.qcow2")
		must(t, "qemu-img", "convert", "-n", "-W", "-m", "16", "-O", "raw", dir+"/out.qcow2", file)
		must(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", disk, file)
		sameFile(t, image, target)

		must(t, "qemu-io", "-f", "raw", "-c", "write -P 0xee 4096 512", file)
		r := do(t, command(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", disk, file))
		if r.code != 1 {
			t.Errorf("compare of images that differ: exit code %d, %s%s", r.code, r.stdout, r.stderr)
		}
	})
}

// TestQemuIO checks each kind of write, on a file and in memory, by what is
// read back.
func TestQemuIO(t *testing.T) {
	script := []string{
		"write -P 0x11 0 4M",
		"write -f -P 0x22 1M 64k",      // FUA
		"write -f -P 0x33 1234567 777", // and unaligned
		"flush",
		"write -z 2M 64k",     // may not become a hole
		"write -z -u 3M 64k",  // may
		"write -z -f 3200k 1", // with FUA
		"discard 3584k 64k",
		"read -P 0x11 0 1M",
		"read -P 0x22 1M 64k",
		"read -P 0x33 1234567 777",
		"read -P 0x11 1235344 512",
		"read -P 0 2M 64k",
		"read -P 0x11 2162688 64k",
		"read -P 0 3M 64k",
		"read -P 0 3200k 1",
		"read -P 0x11 3276801 1023",
		"read -P 0x11 3840k 256k",
		"aio_write -P 0x44 5M 1M",
		"aio_write -P 0x55 6M 1M",
		"aio_write -z 7M 1M",
		"aio_flush",
		"read -P 0x44 5M 1M",
		"read -P 0x55 6M 1M",
		"read -P 0 7M 1M",
	}
	transports(t, func(t *testing.T, transport string) {
		target := newHole(t, "target.img", 8*mib)
		s := start(t, config{volumes: []string{"target=" + target + ",access=read-write", "memory:8M", "ro=" + target}})
		var args []string
		for _, line := range script {
			args = append(args, "-c", line)
		}
		for _, uri := range s.uris[transport][:2] {
			r := do(t, command(t, "qemu-io", append([]string{"-t", "none", "-f", "raw", uri}, args...)...))
			if r.code != 0 || r.stderr != "" {
				t.Errorf("%s: exit code %d\n%s%s", uri, r.code, r.stdout, r.stderr)
			}
		}
		// The same bytes, seen by way of the file.
		must(t, "qemu-io", "-r", "-f", "raw", "-c", "read -P 0x33 1234567 777", "-c", "read -P 0x44 5M 1M", target)
		if r := do(t, command(t, "qemu-io", "-f", "raw", "-c", "write 0 512", s.uris[transport][2])); r.code == 0 {
			t.Error("qemu-io wrote to a read-only volume")
		}
	})
}
