//go:build e2e

package e2e

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// secret is what a Secret holds.
func (n *namespace) secret(name string) map[string][]byte {
	n.Helper()
	var data map[string][]byte
	if err := json.Unmarshal([]byte(n.read("secret", name, "{.data}")), &data); err != nil {
		n.Fatal(err)
	}
	return data
}

// files writes what a Secret holds into a directory on the machine.
func (n *namespace) files(data map[string][]byte) (dir string) {
	n.Helper()
	dir = n.TempDir()
	for name, b := range data {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			n.Fatal(err)
		}
	}
	return dir
}

// atAddress is the URI of an export for libnbd on the machine, with the files of a
// directory there.
func (n *namespace) atAddress(export, files string) string {
	n.Helper()
	return "nbds://" + n.address(export) + ":10809?tls-certificates=" + files
}

// renewed waits until a Secret has another certificate than before.
func (n *namespace) renewed(secret, file string, before map[string][]byte) map[string][]byte {
	n.Helper()
	var data map[string][]byte
	n.eventually(secret+" is renewed", func() bool {
		if _, err := n.tryRead("secret", secret, "{.data}"); err != nil {
			return false
		}
		data = n.secret(secret)
		return len(data[file]) > 0 && string(data[file]) != string(before[file])
	})
	return data
}

// Certificates are renewed, and then the authority itself, while a copy is under way.
// Nobody is disconnected; who comes next needs what is in the Secret now. At no
// time is anybody let in who has no certificate, or that of another export.
func TestTLSRotation(t *testing.T) {
	n := newNamespace(t, anyTime)
	n.apply(scratch)
	n.apply(memory("other", "a"))
	n.client("e")
	uri := n.ready("e")
	want := n.fill(uri)
	server, client := n.secret("nbd-e-server"), n.secret("nbd-e-client")
	pod := n.field("e", ".status.podName")
	uid := n.uid("pod", pod)
	at := func(data map[string][]byte) string {
		return n.atAddress("e", n.files(data))
	}
	letsIn := func(uri string) bool {
		return exec.CommandContext(t.Context(), "timeout", "60", "nbdinfo", "--size", uri).Run() == nil
	}
	copied := n.stream(at(client), slowly)

	n.eventually("the other export has its Secret", func() bool {
		_, err := n.tryRead("secret", "nbd-other-client", "{.data}")
		return err == nil
	})
	if letsIn(at(n.secret("nbd-other-client"))) {
		t.Error("the client of another export is let in")
	}
	n.eventually("the server says who it was", func() bool {
		return strings.Contains(n.kubectl("logs", pod, "-c", "nbdserver"), "nbdexport://"+n.name+"/other/")
	})
	if letsIn(at(map[string][]byte{"ca-cert.pem": client["ca-cert.pem"]})) {
		t.Error("a client without a certificate is let in")
	}
	if !letsIn(at(client)) {
		t.Error("the client of the export isn't let in")
	}

	n.kubectl("delete", "secret", "nbd-e-server", "nbd-e-client")
	second, renewed := n.renewed("nbd-e-server", "server-cert.pem", server), n.renewed("nbd-e-client", "client-cert.pem", client)
	block, _ := pem.Decode(second["server-cert.pem"])
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	n.eventually("the server has its new certificate", func() bool {
		return letsIn(at(renewed)) && strings.Contains(n.kubectl("logs", pod, "-c", "nbdserver"), cert.SerialNumber.String())
	})
	n.eventually("the kubelet has brought the client's", func() bool {
		return n.sh("cat /tls/e/client-cert.pem") == strings.TrimSpace(string(renewed["client-cert.pem"]))
	})
	n.sh("nbdinfo --size '" + uri + "'")

	n.kubectl("delete", "secret", "nbdexport-ca")
	last := n.renewed("nbd-e-client", "client-cert.pem", renewed)
	n.eventually("a client of the new authority is let in", func() bool { return letsIn(at(last)) })
	if letsIn(at(map[string][]byte{"ca-cert.pem": last["ca-cert.pem"], "client-cert.pem": renewed["client-cert.pem"], "client-key.pem": renewed["client-key.pem"]})) {
		t.Error("the old authority's client is let in")
	}

	copied.finish(n, want)
	if got := n.uid("pod", pod); got != uid || n.restarts(pod) != "0" {
		t.Errorf("the export's pod is %s, not %s, or its server was started again", got, uid)
	}
}
