// Package authority makes certificates: an authority, its successors, and what
// they sign. Its functions do no I/O and have no clock: what there is in PEM and
// the time go in, what there has to be comes out. They may be called from any
// goroutine, and change nothing that they are given.
//
// All keys are ECDSA on P-256. No error has any of the PEM in it.
package authority

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	day = 24 * time.Hour
	// authorityLife is how long an authority is valid.
	authorityLife = 10 * 365 * day
	// prepareBefore is how long before the end of an authority its successor is made
	// and trusted.
	prepareBefore = 2 * 365 * day
	// trustedBefore is how long the successor is trusted before it signs: clients with
	// copies of their files have that time to copy them again.
	trustedBefore = 365 * day
	// leafLife is how long what an authority signs is valid, if that doesn't end before.
	leafLife = 90 * day
	// backdate is how long before it is made a certificate is valid, for those whose
	// clocks are behind.
	backdate = time.Hour
)

// The keys under which an authority is kept.
const (
	// bundleKey has all certificates to be trusted: of the authority that signs, of
	// its successor if there is one already, and of its predecessors.
	bundleKey = "ca-cert.pem"
	// signerKey has the private key of the first of them.
	signerKey = "ca-key.pem"
	// nextKey has that of the second, if that is the successor.
	nextKey = "next-key.pem"
)

// Authority signs certificates. It is never changed.
type Authority struct {
	signer pair
	// next signs after signer; nil until it is time to prepare it.
	next *pair
	// old have signed before, and are trusted until they expire.
	old []*x509.Certificate
}

// pair is a certificate of an authority with its key.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte // the key
}

// New makes an authority. The organization, at most 64 characters, is a part of its
// name and of those that it signs: it is for people, nobody compares it.
func New(organization string, now time.Time) (*Authority, error) {
	p, err := newPair(organization, now)
	if err != nil {
		return nil, err
	}
	return &Authority{signer: p}, nil
}

// Parse reads an authority as Data has written it. It refuses what isn't fit to sign,
// now or ever, whoever has put it there.
func Parse(data map[string][]byte, now time.Time) (*Authority, error) {
	certs, err := parseCertificates(data[bundleKey])
	if err != nil {
		return nil, errors.New(bundleKey + " has no certificates in PEM")
	}
	a := &Authority{}
	if a.signer, err = newAuthorityPair(certs[0], data[signerKey]); err != nil {
		return nil, errors.New(signerKey + " isn't the key of the first certificate in " + bundleKey + ", or that is none of an authority")
	}
	if from := certs[0].NotBefore; now.Before(from) {
		return nil, fmt.Errorf("it isn't valid before %s: the operator's clock is wrong, or was when it was made", from.Format(time.RFC3339))
	}
	a.old = certs[1:]
	if key := data[nextKey]; len(key) > 0 {
		if len(certs) < 2 {
			return nil, errors.New(nextKey + " has no certificate in " + bundleKey)
		}
		next, err := newAuthorityPair(certs[1], key)
		if err != nil {
			return nil, errors.New(nextKey + " isn't the key of the second certificate in " + bundleKey + ", or that is none of an authority")
		}
		a.next, a.old = &next, certs[2:]
	}
	return a, nil
}

// Data is what Parse reads.
func (a *Authority) Data() map[string][]byte {
	data := map[string][]byte{bundleKey: a.Bundle(), signerKey: a.signer.pem}
	if a.next != nil {
		data[nextKey] = a.next.pem
	}
	return data
}

// Bundle is all certificates to be trusted, in PEM.
func (a *Authority) Bundle() []byte {
	var b bytes.Buffer
	for _, c := range a.trusted() {
		b.Write(encode(certificateBlock, c.Raw))
	}
	return b.Bytes()
}

// trusted are all certificates to be trusted, that of the signer first.
func (a *Authority) trusted() []*x509.Certificate {
	out := []*x509.Certificate{a.signer.cert}
	if a.next != nil {
		out = append(out, a.next.cert)
	}
	return append(out, a.old...)
}

// Due is when At has something to do.
func (a *Authority) Due() time.Time {
	due := a.succession()
	for _, c := range a.old {
		due = earlier(due, c.NotAfter)
	}
	return due
}

// succession is when the successor has to be prepared, or to take over. It takes
// over at the latest when its predecessor's time is too short for another
// certificate.
func (a *Authority) succession() time.Time {
	end := a.signer.cert.NotAfter
	if a.next == nil {
		return end.Add(-prepareBefore)
	}
	return earlier(a.next.cert.NotBefore.Add(backdate+trustedBefore), end.Add(-leafLife))
}

// At is the authority as it has to be at a time: itself before Due.
func (a *Authority) At(now time.Time) (*Authority, error) {
	for !now.Before(a.Due()) {
		b := &Authority{a.signer, a.next, slices.Clone(a.old)}
		switch {
		case now.Before(a.succession()):
		case b.next == nil:
			next, err := newPair(b.organization(), now)
			if err != nil {
				return nil, err
			}
			b.next = &next
		default:
			b.signer, b.next, b.old = *b.next, nil, append(b.old, b.signer.cert)
		}
		b.old = slices.DeleteFunc(b.old, func(c *x509.Certificate) bool { return !now.Before(c.NotAfter) })
		a = b
	}
	return a, nil
}

func (a *Authority) organization() string {
	return strings.Join(a.signer.cert.Subject.Organization, " ")
}

// authorityTemplate is an authority's certificate. No two have the same name, so that
// nobody takes one for the other.
func authorityTemplate(organization string, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:               subject(organization, "nbdexport CA "+strings.ToLower(rand.Text()[:8])),
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
}

// newPair makes an authority's certificate and key.
func newPair(organization string, now time.Time) (pair, error) {
	key, text, err := newKey()
	if err != nil {
		return pair{}, err
	}
	template := authorityTemplate(organization, now)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return pair{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return pair{cert, key, text}, err
}

// newAuthorityPair puts together what was read. That the certificate is good for
// signing shows in its own signature.
func newAuthorityPair(cert *x509.Certificate, text []byte) (pair, error) {
	key, err := parseKey(text)
	if err != nil || !key.PublicKey.Equal(cert.PublicKey) || !bytes.Equal(cert.RawIssuer, cert.RawSubject) || cert.CheckSignatureFrom(cert) != nil {
		return pair{}, errMismatch
	}
	return pair{cert, key, text}, nil
}

func subject(organization, name string) pkix.Name {
	return pkix.Name{Organization: []string{organization}, CommonName: name}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
