package desired

import (
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/authority"
)

// TestServerNames reaches servers by all names and addresses of their Service, which
// has two addresses in a cluster with IPv4 and IPv6, also where export and namespace
// have the longest names.
func TestServerNames(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	a, err := authority.New("vms", now)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", strings.Repeat("x", 253), strings.Repeat("x.", 126) + "x"} {
		e := &v1alpha1.NBDExport{}
		e.Name, e.Namespace, e.UID = name, strings.Repeat("n", 63), "11111111-2222-3333-4444-555555555555"
		c := ServerCredential(e, []string{"10.0.0.1", "fd00::1", "None"})
		s, err := c.Issue(a, now)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(s.Data[certKey(RoleServer)])
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		host := ChildName(name) + "." + e.Namespace
		for _, h := range []string{ChildName(name), host, host + ".svc", host + ".svc.cluster.local", "localhost", "10.0.0.1", "fd00::1"} {
			if err := cert.VerifyHostname(h); err != nil {
				t.Errorf("%s: %v", h, err)
			}
		}
		// RFC 5280, ub-common-name: GnuTLS and OpenSSL hold to it.
		if n := cert.Subject.CommonName; len(n) > 64 {
			t.Errorf("%s has %d characters", n, len(n))
		}
		if due := c.RenewAt(s, a, now); !due.After(now) {
			t.Errorf("the new certificate is due at %s", due)
		}
		if c := ServerCredential(e, []string{"10.0.0.1"}); !c.RenewAt(s, a, now).IsZero() {
			t.Error("a certificate for another address isn't due")
		}
		if uri := URI(e, strings.Repeat("v", 63)); len(uri) > 512 || !strings.HasPrefix(uri, "nbds://"+host+".svc:10809/") {
			t.Errorf("%d characters: %s", len(uri), uri)
		}
	}
}
