package interop

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/authority"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// exportOf is an NBDExport of the namespace "vms".
func exportOf(name, uid string) *v1alpha1.NBDExport {
	e := &v1alpha1.NBDExport{}
	e.Namespace, e.Name, e.UID = "vms", name, types.UID(uid)
	e.Spec.TLS = &v1alpha1.TLS{Mode: ptr.To(v1alpha1.TLSRequired), ClientAuth: ptr.To(v1alpha1.ClientAuthRequired)}
	return e
}

// filesOf puts the files of a Secret into a directory, as the kubelet does.
func filesOf(t *testing.T, c desired.Credential, a *authority.Authority, now time.Time) (dir string) {
	t.Helper()
	s, err := c.Issue(a, now)
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for name, b := range s.Data {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// tlsArgs are the arguments about TLS that the operator gives the server of an
// export, but for the directory with its files.
func tlsArgs(t *testing.T, e *v1alpha1.NBDExport, dir string) []string {
	t.Helper()
	pod, err := desired.Pod(e, desired.Facts{})
	if err != nil {
		t.Fatal(err)
	}
	args := pod.Spec.Containers[0].Args
	var out []string
	for i, a := range args {
		switch a {
		case "--tls-certificates":
			out = append(out, a, dir)
		case "--tls", "--tls-allow-san":
			out = append(out, a, args[i+1])
		case "--tls-verify-peer":
			out = append(out, a)
		}
	}
	return out
}

// TestOperatorTLS runs the server with the files and arguments that the operator
// gives it, and clients with theirs.
func TestOperatorTLS(t *testing.T) {
	t.Parallel()
	now := time.Now()
	young, err := authority.New("vms", now)
	if err != nil {
		t.Fatal(err)
	}
	// An authority whose successor has taken over a moment ago.
	old, err := authority.New("vms", now.AddDate(-9, 0, -7))
	if err != nil {
		t.Fatal(err)
	}
	before, err := old.At(old.Due())
	if err != nil {
		t.Fatal(err)
	}
	after, err := before.At(now)
	if err != nil || after == before {
		t.Fatalf("no succession: %v", err)
	}
	for name, a := range map[string]struct{ server, client *authority.Authority }{
		"new":                                {young, young},
		"after a succession":                 {after, after},
		"the client has its predecessor's":   {after, before},
		"the server still has predecessor's": {before, after},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, other, again := exportOf("vm-disk", "1"), exportOf("other", "2"), exportOf("vm-disk", "3")
			dir := filesOf(t, desired.ServerCredential(e, []string{"10.0.0.1", "127.0.0.1"}), a.server, now)
			s := start(t, config{volumes: []string{"disk=memory:1M"}, flags: tlsArgs(t, e, dir)})
			good := filesOf(t, desired.ClientCredential(e), a.client, now)
			contains(t, must(t, "nbdinfo", with(s.uri("tcp"), good)), "newstyle-fixed with TLS")
			must(t, "nbdinfo", s.uri("tcp")+"?tls-certificates="+good) // by address
			must(t, "nbdcopy", with(s.uri("tcp"), good), "null:")
			for _, host := range []string{"localhost", "10.0.0.1", "nbd-vm-disk", "nbd-vm-disk.vms", "nbd-vm-disk.vms.svc", "nbd-vm-disk.vms.svc.cluster.local"} {
				must(t, "qemu-img", append([]string{"info"}, s.qemu("tcp", good, "disk", host)...)...)
			}
			e.Spec.TLS.ClientAuth = ptr.To(v1alpha1.ClientAuthNone)
			for who, dir := range map[string]string{
				"the client of another export":                   filesOf(t, desired.ClientCredential(other), a.client, now),
				"the client of an earlier export with this name": filesOf(t, desired.ClientCredential(again), a.client, now),
				"a client without a certificate":                 filesOf(t, desired.ClientCredential(e), a.client, now),
			} {
				if r := do(t, command(t, "nbdinfo", with(s.uri("tcp"), dir))); r.code == 0 {
					t.Errorf("nbdinfo was let in: %s", who)
				}
				if r := do(t, command(t, "qemu-img", append([]string{"info"}, s.qemu("tcp", dir, "disk", "localhost")...)...)); r.code == 0 {
					t.Errorf("qemu-img was let in: %s", who)
				}
			}
			eventually(t, "the server should say who was refused", func() bool {
				return strings.Contains(s.stderr.String(), "it has URI:nbdexport://vms/other/2") && strings.Contains(s.stderr.String(), "it has URI:nbdexport://vms/vm-disk/3")
			})
			if r := do(t, command(t, "qemu-img", append([]string{"info"}, s.qemu("tcp", good, "disk", "nbd-other.vms.svc")...)...)); r.code == 0 {
				t.Error("qemu-img takes the server for another export's")
			}

			open := start(t, config{volumes: []string{"disk=memory:1M"}, flags: tlsArgs(t, e, dir)})
			must(t, "nbdinfo", with(open.uri("tcp"), filesOf(t, desired.ClientCredential(e), a.client, now)))
		})
	}
}

// TestOperatorTLSStrict has OpenSSL, by way of Python, verify both ends as strictly
// as it can.
func TestOperatorTLSStrict(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a, err := authority.New("vms", now)
	if err != nil {
		t.Fatal(err)
	}
	e := exportOf("vm-disk", "1")
	server, client := filesOf(t, desired.ServerCredential(e, []string{"10.0.0.1"}), a, now), filesOf(t, desired.ClientCredential(e), a, now)
	nbdsh(t, "tlsstrict.py", server, client, "nbd-vm-disk.vms.svc")
}

// TestOwnCertificates puts the keys of a Secret to where the operator has the kubelet
// put them.
func TestOwnCertificates(t *testing.T) {
	t.Parallel()
	for _, auth := range []v1alpha1.ClientAuth{v1alpha1.ClientAuthRequired, v1alpha1.ClientAuthNone} {
		p := newPKI(t)
		secret := map[string][]byte{"ca.crt": p.ca.PEM}
		for key, file := range map[string]string{"tls.crt": "server-cert.pem", "tls.key": "server-key.pem"} {
			b, err := os.ReadFile(filepath.Join(p.server, file))
			if err != nil {
				t.Fatal(err)
			}
			secret[key] = b
		}
		e := exportOf("vm-disk", "1")
		e.Spec.TLS.SecretRef, e.Spec.TLS.ClientAuth = &v1alpha1.TLSSecretReference{Name: "own"}, ptr.To(auth)
		ac, err := desired.Pod(e, desired.Facts{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(ac.Spec.Volumes)
		if err != nil {
			t.Fatal(err)
		}
		var volumes []corev1.Volume
		if err := json.Unmarshal(b, &volumes); err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(volumes, func(v corev1.Volume) bool { return v.Secret != nil })
		dir := t.TempDir()
		for _, item := range volumes[i].Secret.Items {
			if err := os.WriteFile(filepath.Join(dir, item.Path), secret[item.Key], 0o640); err != nil {
				t.Fatal(err)
			}
		}
		s := start(t, config{volumes: []string{"disk=memory:1M"}, flags: tlsArgs(t, e, dir)})
		must(t, "nbdinfo", with(s.uri("tcp"), p.client))
		r := do(t, command(t, "nbdinfo", with(s.uri("tcp"), p.anonymous(t))))
		if in := r.code == 0; in != (auth == v1alpha1.ClientAuthNone) {
			t.Errorf("clientAuth %s: a client without a certificate was let in: %v", auth, in)
		}
	}
}
