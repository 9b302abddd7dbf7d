//go:build e2e

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nbdexport/nbdexport/test/vm"
)

// golden is an export of the image on the claim "data" that a machine boots from.
func golden(name string) string {
	return strings.Replace(exportOfClaim(name, "CopyOnWrite"), "access: CopyOnWrite", "access: CopyOnWrite, scratch: {sizeLimit: 256Mi}", 1)
}

// goldenImage puts the image that machines boot from onto the claim "data", and
// returns its path on the machine that the cluster is on.
func (n *namespace) goldenImage() string {
	n.Helper()
	image, err := vm.GoldenImage()
	if err != nil {
		n.Fatal(err)
	}
	n.apply(claim("Filesystem"))
	path := filepath.Join(n.volume("true"), "disk.img")
	n.machine("cp", "--sparse=always", image, path)
	return path
}

// hash is the sha256 of a file on the machine.
func (n *namespace) hash(path string) string {
	n.Helper()
	f, err := os.Open(path)
	if err != nil {
		n.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		n.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// boot starts a machine on an export, with the files that are in the Secret of its
// clients, in the directory that it returns. Without a hostname, the server is known
// by its address.
func (n *namespace) boot(export, hostname string) (g vm.Guest, tls string) {
	n.Helper()
	n.await(export, "Ready", "True")
	tls = n.files(n.secret(n.field(export, ".status.clientSecretName")))
	n.eventually("the machine reaches "+export, func() bool {
		return exec.Command("nbdinfo", "--size", n.atAddress(export, tls)).Run() == nil
	})
	ctx, cancel := context.WithTimeout(n.Context(), 4*patience) // for all of its life
	n.Cleanup(cancel)
	began := time.Now()
	m, err := vm.Boot(ctx, vm.Options{Root: vm.Disk{Host: n.address(export), Port: "10809", Export: "data", TLS: tls, Hostname: hostname}})
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(m.Kill)
	n.Logf("%s: booted in %v", export, time.Since(began).Round(time.Millisecond))
	return vm.Guest{TB: n, Machine: m}, tls
}

// Two machines boot at once from one golden image, over TLS, and each finds what it
// has written itself. The image stays as it is.
func TestVMsOnGoldenImage(t *testing.T) {
	n := newNamespace(t, machines)
	image := n.goldenImage()
	before := n.hash(image)
	hostnames := map[string]string{"a": "", "b": "nbd-b." + n.name + ".svc"}
	for name := range hostnames {
		n.apply(golden(name))
	}
	t.Run("boot", func(t *testing.T) {
		for name, hostname := range hostnames {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				n := &namespace{t, n.name}
				g, tls := n.boot(name, hostname)
				g.Must("echo %s >/mark && dd if=/dev/urandom of=/data bs=64k count=64 && sync", name)
				sum := g.Must("sha256sum /data")
				g.Must("echo 3 >/proc/sys/vm/drop_caches")
				if again := g.Must("sha256sum /data"); again != sum {
					t.Errorf("/data was %s and is %s", sum, again)
				}
				g.MustPowerOff()

				disk := filepath.Join(t.TempDir(), "disk.img")
				n.machine("nbdcopy", n.atAddress(name, tls), disk)
				n.machine("e2fsck", "-fn", disk)
				if mark := n.fileOn(disk, "/mark"); mark != name {
					t.Errorf("the machine has left the mark %q", mark)
				}
				n.expect(name, map[string]string{condition("Ready", "status"): "True"})
			})
		}
	})
	n.kubectl("delete", "nbdexport", "a", "b", within)
	if n.hash(image) != before {
		t.Error("the golden image has changed")
	}
}

// The Linux kernel's own client, in a machine, works on an export whose server is
// killed under it and started again in place, and which then drains. That export is
// in the clear: the kernel's client can't do TLS.
func TestKernelClient(t *testing.T) {
	n := newNamespace(t, machines)
	n.goldenImage()
	n.apply(golden("root"))
	n.apply(strings.NewReplacer("{name: data}", "{name: disk}", "64Mi", "256Mi").Replace(claim("Block")))
	n.apply(strings.NewReplacer(
		"claimName: data", "claimName: disk",
		"  drain: {timeoutSeconds: 20}", `  exitWhen:
  - {name: asked-to, fileCreated: {path: /run/nbdexport/stop}}
  drain: {timeoutSeconds: 900, graceSeconds: 890, policy: Disconnect}`,
	).Replace(exportOfClaim("e", "ReadWrite")) + companion("while :; do sleep 0.1; done") + inTheClear)

	g, _ := n.boot("root", "")
	n.await("e", "Ready", "True")
	pod := n.field("e", ".status.podName")
	server := n.processes(n.name, pod, "nbdserver")
	g.Must("modprobe nbd nbds_max=1 max_part=0")
	g.Must("nbd-client %s 10809 /dev/nbd0 -name data -timeout 5", n.address("e"))
	g.Must("setsid reconnect -timeout 300 0 %s:10809 data >/tmp/reconnect.log 2>&1 &", n.address("e"))
	g.Must("mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/nbd0 && mkdir /tmp/mnt && mount /dev/nbd0 /tmp/mnt")
	g.Must("sync; awk '{print $7}' /sys/block/nbd0/stat >/tmp/before") // in sectors of 512 bytes
	g.Must("(fio --name=job --directory=/tmp/mnt --size=24m --rw=randwrite --bs=16k --direct=1 --ioengine=psync --fsync=32 --rate=4m --verify=crc32c --verify_fatal=1 >/tmp/fio.log 2>&1; echo $? >/tmp/fio.exit) &")
	g.Must("until test $(($(awk '{print $7}' /sys/block/nbd0/stat) - $(cat /tmp/before))) -gt 8192; do sleep 0.1; done")
	n.kill(server)
	if out := g.Must("cat /tmp/fio.exit 2>/dev/null; true"); out != "" {
		t.Errorf("fio had ended before the server was killed: %s", out)
	}
	g.Must("until test -s /tmp/fio.exit; do sleep 1; done; test $(cat /tmp/fio.exit) = 0 || { cat /tmp/fio.log; false; }")
	if log := g.Must("cat /tmp/reconnect.log"); !strings.Contains(log, "nbd0 has a new connection") {
		t.Errorf("the kernel has not been given a new connection: %s", log)
	}
	if n.restarts(pod) != "1" {
		t.Errorf("the server was started again %s times", n.restarts(pod))
	}

	// A drain lets the machine finish what it does and go.
	n.await("e", "Ready", "True")
	n.kubectl("exec", pod, "-c", "companion", "--", "touch", "/run/nbdexport/stop")
	n.await("e", "Ready", "False")
	g.Must("echo last words >/tmp/mnt/last && umount /tmp/mnt && nbd-client -d /dev/nbd0")
	n.await("e", "Complete", "True")
	n.expect("e", map[string]string{".status.exit.condition": "asked-to", ".status.exit.clean": "true"})
	g.MustPowerOff()
	if strings.Contains(g.Console(), "I/O error") {
		t.Errorf("the kernel has seen errors:\n%s", g.Console())
	}
	disk := n.folder("disk") + ".img"
	n.machine("e2fsck", "-fn", disk)
	if last := n.fileOn(disk, "/last"); last != "last words" {
		t.Errorf("the last file holds %q", last)
	}
}

// fileOn is what a file in the file system of an image holds. debugfs says who it is
// on standard error.
func (n *namespace) fileOn(image, path string) string {
	n.Helper()
	return n.machine("sh", "-c", `debugfs -R "cat $1" "$0" 2>/dev/null`, image, path)
}
