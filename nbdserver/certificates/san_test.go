package certificates

import (
	"crypto/x509"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// named is a certificate with one name, written as SANs writes it.
func named(t *testing.T, kind, name string) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{}
	switch kind {
	case "DNS":
		c.DNSNames = []string{name}
	case "IP":
		c.IPAddresses = []net.IP{net.ParseIP(name)}
	case "URI":
		u, err := url.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		c.URIs = []*url.URL{u}
	case "email":
		c.EmailAddresses = []string{name}
	}
	if got := SANs(c); !slices.Equal(got, []string{kind + ":" + name}) {
		t.Errorf("the name %s:%s is written %q", kind, name, got)
	}
	return c
}

func TestSAN(t *testing.T) {
	tests := []struct {
		pattern   string
		yes, no   []string
		otherKind string // the same name, of another kind
	}{
		{"DNS:agent.backup.example", []string{"agent.backup.example", "Agent.BACKUP.example"},
			[]string{"backup.example", "x.agent.backup.example", "agent.backup.example.evil", "agent.backup.example.", "agentxbackup.example", "*.backup.example"}, "email"},
		{"DNS:*.backup.example", []string{"a.backup.example", "A.BACKUP.EXAMPLE", "*.backup.example"},
			[]string{"backup.example", ".backup.example", "a.b.backup.example", "a.backup.example.evil", "abackup.example"}, "URI"},
		{"DNS:agent.*.example", []string{"agent.a.example"}, []string{"agent.example", "agent..example", "agent.a.b.example", "x.a.example"}, ""},
		{"DNS:*", []string{"localhost"}, []string{"a.example", ""}, ""},
		{"IP:10.1.2.3", []string{"10.1.2.3"}, []string{"10.1.2.4", "::a01:203"}, "DNS"},
		{"IP:10.1.2.3/16", []string{"10.1.0.0", "10.1.255.255"}, []string{"10.2.0.0", "::1"}, ""},
		{"IP:::ffff:10.1.2.3", []string{"10.1.2.3"}, []string{"10.1.2.4"}, ""},
		{"IP:::ffff:10.1.0.0/112", []string{"10.1.2.3"}, []string{"10.2.0.0", "::1"}, ""},
		{"IP:fd00::/8", []string{"fd00::1", "fdff::1"}, []string{"fe80::1", "10.1.2.3"}, ""},
		{"URI:spiffe://cluster/ns/backup/*", []string{"spiffe://cluster/ns/backup/agent", "spiffe://cluster/ns/backup/%2F", "spiffe://cluster/ns/backup/a:b"},
			[]string{"spiffe://cluster/ns/backup", "spiffe://cluster/ns/backup/", "spiffe://cluster/ns/backup/a/b", "spiffe://cluster/ns/backup/..",
				"spiffe://cluster/ns/backup/a?b", "spiffe://cluster/ns/backup/a#b", "spiffe://evil/ns/backup/a", "spiffe://cluster@evil/ns/backup/a",
				"spiffe://cluster/ns/Backup/a", "https://cluster/ns/backup/a", "spiffe://evil/spiffe://cluster/ns/backup/a"}, "DNS"},
		{"URI:spiffe://cluster/*/sa", []string{"spiffe://cluster/a/sa"}, []string{"spiffe://cluster/sa", "spiffe://cluster//sa", "spiffe://cluster/a/b/sa"}, ""},
		{"URI:urn:uuid:1", []string{"urn:uuid:1"}, []string{"urn:uuid:12", "urn:uuid:"}, ""},
		{"email:ops@backup.example", []string{"ops@backup.example", "ops@Backup.Example"}, []string{"OPS@backup.example", "dev@backup.example", "ops@a.backup.example"}, "DNS"},
		{"email:*@backup.example", []string{"ops@backup.example", "a@b@backup.example"}, []string{"@backup.example", "backup.example", "ops@backup.example@evil", "ops@xbackup.example"}, ""},
	}
	for _, tt := range tests {
		p, err := ParseSAN(tt.pattern)
		if err != nil {
			t.Error(err)
			continue
		}
		kind, _, _ := strings.Cut(tt.pattern, ":")
		for _, name := range tt.yes {
			if !p.Match(named(t, kind, name)) {
				t.Errorf("%s doesn't match %q", tt.pattern, name)
			}
		}
		for _, name := range tt.no {
			if p.Match(named(t, kind, name)) {
				t.Errorf("%s matches %q", tt.pattern, name)
			}
		}
		if tt.otherKind != "" && p.Match(named(t, tt.otherKind, tt.yes[0])) {
			t.Errorf("%s matches an %s name", tt.pattern, tt.otherKind)
		}
		if p.Match(&x509.Certificate{}) {
			t.Errorf("%s matches no name at all", tt.pattern)
		}
	}
	if (SAN{}).Match(named(t, "DNS", "localhost")) {
		t.Error("the zero value matches")
	}
}

func TestSANRefuses(t *testing.T) {
	for _, s := range []string{
		"", "*", "localhost", "dns:localhost", "CN:agent", "DNS", "DNS:", "DNS:a..b", "DNS:.a", "DNS:a.", "DNS:ba*.example", "DNS:**.example", "DNS:a b", "DNS:bücher.example",
		"IP:", "IP:*", "IP:10.1.*.*", "IP:10.1.2", "IP:fe80::1%eth0", "IP:10.0.0.0/33", "IP:::ffff:0.0.0.0/95", "IP:localhost",
		"URI:", "URI:*", "URI:cluster/ns/*", "URI:*://cluster/a", "URI:spiffe://*/a", "URI:spiffe://cluster/a*", "URI:spiffe://cluster/**", "URI:urn:*", "URI:file:/*/*/*", "URI:%",
		"email:", "email:*", "email:ops", "email:@a", "email:ops@", "email:o*@a", "email:ops@*", "email:ops@*.a",
	} {
		if _, err := ParseSAN(s); err == nil {
			t.Errorf("%q was taken for a pattern", s)
		}
	}
}
