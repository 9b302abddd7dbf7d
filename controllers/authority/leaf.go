package authority

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"net"
	"net/url"
	"slices"
	"time"
)

// Profile is what a certificate is for.
type Profile struct {
	// CommonName, at most 64 characters, is for people.
	CommonName string
	// Usage is x509.ExtKeyUsageServerAuth or x509.ExtKeyUsageClientAuth.
	Usage x509.ExtKeyUsage
	// DNSNames, IPs and URIs are its subject alternative names.
	DNSNames []string
	IPs      []net.IP
	URIs     []*url.URL
}

// Issue signs a certificate with a new key, both in PEM.
func (a *Authority) Issue(p Profile, now time.Time) (cert, key []byte, err error) {
	private, key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		Subject:               subject(a.organization(), p.CommonName),
		NotBefore:             now.Add(-backdate),
		NotAfter:              earlier(now.Add(leafLife), a.signer.cert.NotAfter),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{p.Usage},
		BasicConstraintsValid: true,
		DNSNames:              p.DNSNames,
		IPAddresses:           p.IPs,
		URIs:                  p.URIs,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.signer.cert, &private.PublicKey, a.signer.key)
	if err != nil {
		return nil, nil, err
	}
	return encode(certificateBlock, der), key, nil
}

// RenewAt is when a certificate has to be issued anew: after two thirds of its life,
// some of them up to a thirtieth sooner, so that those which were made together aren't
// renewed together. It is the zero time for a certificate or a key that
// isn't what Issue would make of the profile.
func (a *Authority) RenewAt(p Profile, cert, key []byte, now time.Time) time.Time {
	certs, err := parseCertificates(cert)
	if err != nil {
		return time.Time{}
	}
	c := certs[0]
	private, err := parseKey(key)
	if err != nil || !private.PublicKey.Equal(c.PublicKey) || now.Before(c.NotBefore) || !a.signed(c) ||
		!slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{p.Usage}) ||
		!slices.Equal(names(c.DNSNames, c.IPAddresses, c.URIs), names(p.DNSNames, p.IPs, p.URIs)) {
		return time.Time{}
	}
	life := c.NotAfter.Sub(c.NotBefore)
	return c.NotBefore.Add(life*2/3 - jitter(c, life/30))
}

// signed tells whether a certificate was signed by one of those that are trusted.
func (a *Authority) signed(c *x509.Certificate) bool {
	return slices.ContainsFunc(a.trusted(), func(ca *x509.Certificate) bool {
		return bytes.Equal(c.RawIssuer, ca.RawSubject) && c.CheckSignatureFrom(ca) == nil
	})
}

// jitter is always the same time for the same certificate, below a bound of at
// least a nanosecond.
func jitter(c *x509.Certificate, bound time.Duration) time.Duration {
	n := new(big.Int).Mod(c.SerialNumber, big.NewInt(max(int64(bound), 1)))
	return time.Duration(n.Int64())
}

// names are subject alternative names in one order.
func names(dns []string, ips []net.IP, uris []*url.URL) []string {
	out := slices.Clone(dns)
	for _, ip := range ips {
		out = append(out, ip.String())
	}
	for _, u := range uris {
		out = append(out, u.String())
	}
	slices.Sort(out)
	return out
}
