//go:build e2e

package e2e

import (
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// A disk is written to a claim and backed up from it over TLS, by a pod that mounts
// the Secret of clients. What is a hole stays one, in the volume and in the copies.
func TestBackup(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"Filesystem", "Block"} {
		t.Run(mode, func(t *testing.T) {
			n := newNamespace(t, anyTime)
			n.apply(claim(mode))
			path := ""
			if mode == "Filesystem" {
				path = filepath.Join(n.volume("truncate -s 64M /data/disk.img"), "disk.img")
			}
			n.apply(exportOfClaim("e", "ReadWrite"))
			n.client("e")
			uri := n.ready("e")
			if mode == "Block" {
				path = n.folder("data") + ".img"
			}
			want := n.sh(`cd /tmp && truncate -s 64M disk &&
				dd if=/dev/urandom of=disk bs=64k seek=100 count=48 conv=notrunc 2>/dev/null &&
				dd if=/dev/urandom of=disk bs=64k seek=800 count=16 conv=notrunc 2>/dev/null &&
				nbdcopy --flush disk '` + uri + `' && sha256sum <disk`)

			const least, most = 4 << 20, 5 << 20 // that the disk takes, which has 4 MiB of data
			u, err := url.Parse(uri)
			if err != nil {
				t.Fatal(err)
			}
			convert := "qemu-img convert --object tls-creds-x509,id=tls,endpoint=client,dir=/tls/e --image-opts -O raw driver=nbd,host=" +
				u.Hostname() + ",port=" + u.Port() + ",export=" + strings.TrimPrefix(u.Path, "/") + ",tls-creds=tls"
			for tool, command := range map[string]string{"nbdcopy": "nbdcopy '" + uri + "'", "qemu-img": convert} {
				if got := n.sh(command + " /tmp/copy && sha256sum </tmp/copy"); got != want {
					t.Errorf("%s: the copy is %s, not %s", tool, got, want)
				}
				kib, err := strconv.Atoi(n.sh("du -k /tmp/copy | cut -f1; rm /tmp/copy"))
				if used := kib << 10; err != nil || used < least || used > most {
					t.Errorf("%s: the copy takes %d bytes, not %d to %d (%v)", tool, used, least, most, err)
				}
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used < least || used > most {
				t.Errorf("the volume takes %d bytes, not %d to %d", used, least, most)
			}
		})
	}
}

// volume gives the claim "data" its volume, by way of a pod that runs a shell command
// and is gone again, and returns the volume's folder on the machine.
func (n *namespace) volume(command string) (folder string) {
	n.Helper()
	n.pod("writer", holds, held)
	n.kubectl("exec", "writer", "--", "sh", "-c", command)
	n.kubectl("delete", "pod", "writer", within)
	return n.folder("data")
}

// folder is where a claim on the first node has its volume on the machine; a Block
// volume has the same path with ".img".
func (n *namespace) folder(claim string) string {
	n.Helper()
	return filepath.Join(run(), "n1", "kubelet", "nbde-volumes", n.read("pvc", claim, "{.spec.volumeName}"))
}
