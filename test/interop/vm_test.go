package interop

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nbdexport/nbdexport/test/vm"
)

// boot starts a machine, whose root file system is an export of a server that
// requires TLS. It is killed at the end of the test if it still runs.
func boot(t *testing.T, s *server, export string, p pki) vm.Guest {
	t.Helper()
	_, port, _ := net.SplitHostPort(s.tcp())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	m, err := vm.Boot(ctx, vm.Options{Root: vm.Disk{Host: "127.0.0.1", Port: port, Export: export, TLS: p.client, Hostname: "localhost"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Kill)
	return vm.Guest{TB: t, Machine: m}
}

// goldenImage is an image that machines boot from.
func goldenImage(t *testing.T) string {
	t.Helper()
	image, err := vm.GoldenImage()
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// TestVMsOnGoldenImage boots two machines at once from copies on write of one image,
// over TLS. Each finds what it has written itself, and the image stays as it is. It
// doesn't run beside other tests: emulated machines take all the CPUs there are.
func TestVMsOnGoldenImage(t *testing.T) {
	image := goldenImage(t)
	before := fileHash(t, image)
	p, scratch := newPKI(t), t.TempDir()
	s := start(t, config{flags: p.flags(), volumes: []string{copyOnWrite("a", image, scratch), copyOnWrite("b", image, scratch)}})
	for i, name := range []string{"a", "b"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := boot(t, s, name, p)
			g.Must("echo %s >/mark && dd if=/dev/urandom of=/data bs=64k count=64 && sync", name)
			sum := g.Must("sha256sum /data")
			g.Must("echo 3 >/proc/sys/vm/drop_caches")
			if again := g.Must("sha256sum /data"); again != sum {
				t.Errorf("/data was %s and is %s", sum, again)
			}
			g.MustPowerOff()

			if e := s.status().Exports[i]; e.ScratchBytes == nil || *e.ScratchBytes < 4*mib || e.BytesWritten < 4*mib {
				t.Errorf("of 4 MiB that were written, the server knows %+v", e)
			}
			disk := filepath.Join(t.TempDir(), "disk.img")
			must(t, "nbdcopy", with(s.uris["tcp"][i], p.client), disk)
			must(t, sbin("e2fsck"), "-fn", disk)
			if mark := must(t, sbin("debugfs"), "-R", "cat /mark", disk); mark != name+"\n" {
				t.Errorf("the machine has left the mark %q", mark)
			}
		})
	}
	t.Cleanup(func() {
		s.signal(syscall.SIGTERM)
		s.ended(0, "signal=SIGTERM")
		if fileHash(t, image) != before {
			t.Error("the golden image has changed")
		}
	})
}

// TestKernelClient has the Linux kernel's own client, in a machine, work on an export
// whose server is killed under it and started again, and then drains.
func TestKernelClient(t *testing.T) {
	image := goldenImage(t)
	p := newPKI(t)
	root := start(t, config{flags: p.flags(), volumes: []string{copyOnWrite("root", image, t.TempDir())}})
	disk, addr := newHole(t, "disk.img", 256*mib), freePort(t)
	data := config{volumes: []string{"disk=" + disk + ",access=read-write"},
		flags: []string{"--listen", "tcp://" + addr, "--drain-policy", "disconnect", "--drain-grace", "100s", "--drain-timeout", "110s"}}
	s := start(t, data)
	_, port, _ := net.SplitHostPort(addr)

	g := boot(t, root, "root", p)
	g.Must("modprobe nbd nbds_max=1 max_part=0")
	g.Must("nbd-client 10.0.2.2 %s /dev/nbd0 -name disk -timeout 5", port)
	g.Must("setsid reconnect -timeout 60 0 10.0.2.2:%s disk >/tmp/reconnect.log 2>&1 &", port)
	g.Must("mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/nbd0 && mkdir /tmp/mnt && mount /dev/nbd0 /tmp/mnt")
	g.Must("sync; awk '{print $7}' /sys/block/nbd0/stat >/tmp/before") // in sectors of 512 bytes
	g.Must("(fio --name=job --directory=/tmp/mnt --size=24m --rw=randwrite --bs=16k --direct=1 --ioengine=psync --fsync=32 --rate=4m --verify=crc32c --verify_fatal=1 >/tmp/fio.log 2>&1; echo $? >/tmp/fio.exit) &")
	g.Must("until test $(($(awk '{print $7}' /sys/block/nbd0/stat) - $(cat /tmp/before))) -gt 8192; do sleep 0.1; done")
	s.signal(syscall.SIGKILL)
	<-s.done
	s = start(t, data)
	g.Must("until test -s /tmp/fio.exit; do sleep 1; done; test $(cat /tmp/fio.exit) = 0 || { cat /tmp/fio.log; false; }")
	contains(t, g.Must("cat /tmp/reconnect.log"), "nbd0 has a new connection")
	if e := s.status().Exports[0]; e.BytesWritten < 4*mib || e.BytesRead < 24*mib {
		t.Errorf("of the 24 MiB that fio has written, then read, the second server knows of %d and %d bytes", e.BytesWritten, e.BytesRead)
	}

	// A drain lets the machine finish what it does and go.
	s.signal(syscall.SIGTERM)
	s.awaitRefusal()
	g.Must("echo last words >/tmp/mnt/last && umount /tmp/mnt && nbd-client -d /dev/nbd0")
	if r := s.ended(0, "signal=SIGTERM"); !r.Clean() {
		t.Errorf("%+v", r)
	}
	g.MustPowerOff()
	if strings.Contains(g.Console(), "I/O error") {
		t.Errorf("the kernel has seen errors:\n%s", g.Console())
	}
	must(t, sbin("e2fsck"), "-fn", disk)
	if last := must(t, sbin("debugfs"), "-R", "cat /last", disk); last != "last words\n" {
		t.Errorf("the last file holds %q", last)
	}
}
