package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"time"
)

// A ca signs the certificates of one trust domain of the cluster.
type ca struct {
	dir  folder
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

// An identity is what a certificate says: with sans it is a server's, without a
// client's. Kubernetes takes the common name for the user, the organisation for
// the group.
type identity struct {
	file, name, group string
	sans              []string
}

// A pair is a certificate and its key, in PEM.
type pair struct{ cert, key []byte }

func newCA(dir folder, name string) (*ca, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := certificate("nbdexport-test-"+name, "")
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	c := &ca{dir: dir, cert: cert, key: key}
	if c.pem, err = dir.writePEM(name+".crt", "CERTIFICATE", der); err != nil {
		return nil, err
	}
	_, err = dir.writeKey(name+".key", key)
	return c, err
}

// issue writes FILE.crt and FILE.key.
func (c *ca) issue(id identity) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	t := certificate(id.name, id.group)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(id.sans) > 0 {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	for _, s := range id.sans {
		if ip := net.ParseIP(s); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, s)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, c.cert, key.Public(), c.key)
	if err != nil {
		return pair{}, err
	}
	var p pair
	if p.cert, err = c.dir.writePEM(id.file+".crt", "CERTIFICATE", der); err != nil {
		return pair{}, err
	}
	p.key, err = c.dir.writeKey(id.file+".key", key)
	return p, err
}

func certificate(name, group string) *x509.Certificate {
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: name},
		// Not a second in the future, should the clock step back.
		NotBefore: time.Now().Add(-time.Hour),
		NotAfter:  time.Now().AddDate(1, 0, 0),
	}
	if group != "" {
		t.Subject.Organization = []string{group}
	}
	return t
}
