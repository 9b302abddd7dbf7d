package authority

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"testing"
	"time"
)

var (
	server = Profile{CommonName: "nbd-e", Usage: x509.ExtKeyUsageServerAuth,
		DNSNames: []string{"nbd-e", "nbd-e.vms.svc", "localhost"}, IPs: []net.IP{net.ParseIP("10.0.0.1"), net.ParseIP("fd00::1")}}
	client = Profile{CommonName: "nbd-e-client", Usage: x509.ExtKeyUsageClientAuth,
		URIs: []*url.URL{{Scheme: "nbdexport", Host: "vms", Path: "/e/1"}}}
)

// issue signs, and reads back.
func issue(t *testing.T, a *Authority, p Profile, now time.Time) (c *x509.Certificate, cert, key []byte) {
	t.Helper()
	cert, key, err := a.Issue(p, now)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf, cert, key
}

// verify does what a peer does that trusts a bundle.
func verify(c *x509.Certificate, bundle []byte, now time.Time, host string, usage x509.ExtKeyUsage) error {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(bundle)
	_, err := c.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, DNSName: host, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

func TestIssue(t *testing.T) {
	a := newAuthority(t, noon)
	s, _, _ := issue(t, a, server, noon)
	for _, host := range []string{"nbd-e", "nbd-e.vms.svc", "localhost", "10.0.0.1", "fd00::1"} {
		if err := verify(s, a.Bundle(), noon, host, x509.ExtKeyUsageServerAuth); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	for what, err := range map[string]error{
		"another host":      verify(s, a.Bundle(), noon, "nbd-f", x509.ExtKeyUsageServerAuth),
		"as a client":       verify(s, a.Bundle(), noon, "", x509.ExtKeyUsageClientAuth),
		"another authority": verify(s, newAuthority(t, noon).Bundle(), noon, "nbd-e", x509.ExtKeyUsageServerAuth),
		"too late":          verify(s, a.Bundle(), noon.Add(leafLife+time.Second), "nbd-e", x509.ExtKeyUsageServerAuth),
	} {
		if err == nil {
			t.Errorf("the server's certificate is good for: %s", what)
		}
	}
	if err := verify(s, a.Bundle(), noon.Add(-50*time.Minute), "nbd-e", x509.ExtKeyUsageServerAuth); err != nil {
		t.Errorf("a clock that is behind: %v", err)
	}

	c, _, _ := issue(t, a, client, noon)
	if err := verify(c, a.Bundle(), noon, "", x509.ExtKeyUsageClientAuth); err != nil {
		t.Error(err)
	}
	if err := verify(c, a.Bundle(), noon, "", x509.ExtKeyUsageServerAuth); err == nil {
		t.Error("the client's certificate is good for servers")
	}
	if len(c.URIs) != 1 || c.URIs[0].String() != "nbdexport://vms/e/1" || len(c.DNSNames)+len(c.IPAddresses) > 0 {
		t.Errorf("names of the client: %v %v %v", c.URIs, c.DNSNames, c.IPAddresses)
	}
	if c.IsCA || c.KeyUsage != x509.KeyUsageDigitalSignature || c.SerialNumber.Cmp(s.SerialNumber) == 0 ||
		c.PublicKey.(*ecdsa.PublicKey).Equal(s.PublicKey) {
		t.Errorf("%+v", c)
	}
	if !c.NotAfter.Equal(noon.Add(90 * day)) {
		t.Errorf("valid until %v", c.NotAfter)
	}
}

// TestIssueAtTheEnd signs when the authority's own time is short.
func TestIssueAtTheEnd(t *testing.T) {
	a := newAuthority(t, noon)
	if c, _, _ := issue(t, a, server, noon.Add(authorityLife-30*day)); !c.NotAfter.Equal(a.signer.cert.NotAfter) {
		t.Errorf("valid until %v, the authority until %v", c.NotAfter, a.signer.cert.NotAfter)
	}
}

// TestOverlap has what predecessor and successor have signed verified by those who
// have old files and by those who have new ones.
func TestOverlap(t *testing.T) {
	first := newAuthority(t, noon)
	prepared := at(t, first, first.Due())
	now := prepared.Due()
	second := at(t, prepared, now)
	old, _, _ := issue(t, prepared, client, now.Add(-day))
	fresh, _, _ := issue(t, second, client, now)
	for what, err := range map[string]error{
		"of the predecessor, with new files":                verify(old, second.Bundle(), now, "", x509.ExtKeyUsageClientAuth),
		"of the successor, with new files":                  verify(fresh, second.Bundle(), now, "", x509.ExtKeyUsageClientAuth),
		"of the successor, with files from the year before": verify(fresh, prepared.Bundle(), now, "", x509.ExtKeyUsageClientAuth),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if verify(fresh, first.Bundle(), now, "", x509.ExtKeyUsageClientAuth) == nil {
		t.Error("the successor hasn't signed")
	}
}

func TestRenewAt(t *testing.T) {
	a := newAuthority(t, noon)
	seen := map[time.Time]bool{}
	for range 20 {
		_, cert, key := issue(t, a, server, noon)
		renew := a.RenewAt(server, cert, key, noon)
		if renew.Before(noon.Add(56*day)) || renew.After(noon.Add(60*day)) {
			t.Errorf("renewed at %v", renew)
		}
		if again := a.RenewAt(server, cert, key, noon.Add(day)); !again.Equal(renew) {
			t.Errorf("first at %v, then at %v", renew, again)
		}
		seen[renew] = true
	}
	if len(seen) < 10 {
		t.Errorf("20 certificates are renewed at %d times", len(seen))
	}

	other := newAuthority(t, noon)
	_, cert, key := issue(t, a, server, noon)
	_, otherCert, otherKey := issue(t, other, server, noon)
	_, clientCert, clientKey := issue(t, a, client, noon)
	with := func(change func(*Profile)) Profile {
		p := server
		change(&p)
		return p
	}
	for name, renew := range map[string]time.Time{
		"no certificate":    a.RenewAt(server, nil, key, noon),
		"no PEM":            a.RenewAt(server, []byte("x"), key, noon),
		"no key":            a.RenewAt(server, cert, nil, noon),
		"another's key":     a.RenewAt(server, cert, otherKey, noon),
		"another authority": a.RenewAt(server, otherCert, otherKey, noon),
		"another usage":     a.RenewAt(server, clientCert, clientKey, noon),
		"another address":   a.RenewAt(with(func(p *Profile) { p.IPs = p.IPs[:1] }), cert, key, noon),
		"one more address":  a.RenewAt(with(func(p *Profile) { p.IPs = append(p.IPs[:2:2], net.IPv4(10, 0, 0, 2)) }), cert, key, noon),
		"another name":      a.RenewAt(with(func(p *Profile) { p.DNSNames = p.DNSNames[1:] }), cert, key, noon),
		"another URI":       a.RenewAt(Profile{Usage: client.Usage, URIs: []*url.URL{{Scheme: "nbdexport", Host: "vms", Path: "/e/2"}}}, clientCert, clientKey, noon),
		"from the future":   a.RenewAt(server, cert, key, noon.Add(-2*time.Hour)),
	} {
		if !renew.IsZero() {
			t.Errorf("%s: renewed at %v", name, renew)
		}
	}
	reordered := with(func(p *Profile) { p.IPs = []net.IP{p.IPs[1], p.IPs[0].To4()} })
	if a.RenewAt(reordered, cert, key, noon).IsZero() {
		t.Error("the same names in another order are renewed")
	}
}

// TestRenewAtAfterSuccession leaves what a predecessor has signed until its time.
func TestRenewAtAfterSuccession(t *testing.T) {
	a := newAuthority(t, noon)
	prepared := at(t, a, a.Due())
	now := prepared.Due()
	_, cert, key := issue(t, prepared, server, now.Add(-day))
	second := at(t, prepared, now)
	if renew := second.RenewAt(server, cert, key, now); !renew.Equal(prepared.RenewAt(server, cert, key, now)) || !renew.After(now) {
		t.Errorf("renewed at %v", renew)
	}
}
