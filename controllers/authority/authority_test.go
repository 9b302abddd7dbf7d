package authority

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// noon is when the first authority of each test is made.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func newAuthority(t *testing.T, now time.Time) *Authority {
	t.Helper()
	a, err := New("vms", now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// at brings an authority to a time.
func at(t *testing.T, a *Authority, now time.Time) *Authority {
	t.Helper()
	b, err := a.At(now)
	if err != nil {
		t.Fatal(err)
	}
	if b.Due().Compare(now) <= 0 {
		t.Errorf("brought to %v it is due at %v", now, b.Due())
	}
	return b
}

func TestNew(t *testing.T) {
	a := newAuthority(t, noon)
	c := a.signer.cert
	if !c.IsCA || !c.BasicConstraintsValid || !c.MaxPathLenZero || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || len(c.SubjectKeyId) == 0 {
		t.Errorf("no certificate of an authority: %+v", c)
	}
	if !c.NotBefore.Equal(noon.Add(-time.Hour)) || !c.NotAfter.Equal(noon.Add(3650*24*time.Hour)) {
		t.Errorf("valid from %v to %v", c.NotBefore, c.NotAfter)
	}
	if c.PublicKey.(*ecdsa.PublicKey).Curve != elliptic.P256() || c.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		t.Errorf("%v, %v", c.PublicKeyAlgorithm, c.SignatureAlgorithm)
	}
	b := newAuthority(t, noon).signer.cert
	if c.SerialNumber.Cmp(b.SerialNumber) == 0 || c.Subject.String() == b.Subject.String() || c.SerialNumber.BitLen() < 64 {
		t.Errorf("two have %v, serial number %v", c.Subject, c.SerialNumber)
	}
	if got := c.Subject.String(); !strings.HasSuffix(got, ",O=vms") {
		t.Error(got)
	}
}

// TestSuccession follows an authority over thirty years, day by day.
func TestSuccession(t *testing.T) {
	a := newAuthority(t, noon)
	signers := map[string]time.Time{string(a.signer.cert.Raw): noon} // since when each was trusted
	switches, changes := 0, 0
	for now := noon; now.Before(noon.AddDate(30, 0, 0)); now = now.Add(day) {
		b := at(t, a, now)
		if b != a {
			changes++
			if now.Before(a.Due()) {
				t.Errorf("%v: it has changed, and was due at %v", now, a.Due())
			}
		}
		if b.next != nil && signers[string(b.next.cert.Raw)].IsZero() {
			signers[string(b.next.cert.Raw)] = now
			if left := b.signer.cert.NotAfter.Sub(now); left < 729*day {
				t.Errorf("%v: the successor is prepared %v before the end", now, left)
			}
		}
		if before := a.signer.cert; !before.Equal(b.signer.cert) {
			switches++
			if trusted := now.Sub(signers[string(b.signer.cert.Raw)]); trusted < 365*day {
				t.Errorf("%v: it signs after it was trusted for %v", now, trusted)
			}
			if left := before.NotAfter.Sub(now); left < 90*day {
				t.Errorf("%v: what its predecessor has signed outlives that by %v", now, leafLife-left)
			}
		}
		for _, c := range a.trusted() {
			if now.Before(c.NotAfter) && !slices.ContainsFunc(b.trusted(), c.Equal) {
				t.Errorf("%v: one that ends at %v isn't trusted any more", now, c.NotAfter)
			}
		}
		for _, c := range b.trusted() {
			if !now.Before(c.NotAfter) {
				t.Errorf("%v: one is trusted that ended at %v", now, c.NotAfter)
			}
		}
		a = b
	}
	if switches != 3 || changes != 9 { // prepare, switch, drop
		t.Errorf("%d switches and %d changes in 30 years", switches, changes)
	}
}

// TestLate has nobody look after an authority until long after its time, or that of
// its successor.
func TestLate(t *testing.T) {
	for _, late := range []time.Duration{authorityLife - 30*day, authorityLife - time.Minute, authorityLife, 2 * authorityLife, 20 * authorityLife} {
		prepared := at(t, newAuthority(t, noon), noon.Add(authorityLife-prepareBefore))
		for name, a := range map[string]*Authority{"alone": newAuthority(t, noon), "with a successor": prepared} {
			now := noon.Add(late)
			b := at(t, a, now)
			if left := b.signer.cert.NotAfter.Sub(now); left < leafLife {
				t.Errorf("%s, after %v: who signs is valid for %v more", name, late, left)
			}
			if trusted := slices.ContainsFunc(b.trusted(), a.signer.cert.Equal); trusted != (late < authorityLife) {
				t.Errorf("%s, after %v: the first one is trusted: %v", name, late, trusted)
			}
		}
	}
}

func TestParse(t *testing.T) {
	a := newAuthority(t, noon)
	both := at(t, a, a.Due())
	three := at(t, both, both.Due())
	for name, want := range map[string]*Authority{"one": a, "with a successor": both, "with a predecessor": three} {
		got, err := Parse(want.Data(), want.signer.cert.NotBefore)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !maps.EqualFunc(got.Data(), want.Data(), bytes.Equal) || !got.Due().Equal(want.Due()) {
			t.Errorf("%s: it isn't the same as before", name)
		}
	}
	if len(three.old) != 1 || three.next != nil || !three.signer.cert.Equal(both.next.cert) {
		t.Errorf("after its succession: %d predecessors", len(three.old))
	}
}

func TestParseRefuses(t *testing.T) {
	a := newAuthority(t, noon)
	both := at(t, a, a.Due())
	other := newAuthority(t, noon)
	leaf, leafKey, err := a.Issue(client, noon)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(map[string][]byte){
		"empty":                      func(d map[string][]byte) { clear(d) },
		"no certificate":             func(d map[string][]byte) { delete(d, bundleKey) },
		"no PEM":                     func(d map[string][]byte) { d[bundleKey] = []byte("x") },
		"half a certificate":         func(d map[string][]byte) { d[bundleKey] = d[bundleKey][:200] },
		"bytes as a certificate":     func(d map[string][]byte) { d[bundleKey] = encode(certificateBlock, []byte("x")) },
		"a key among certificates":   func(d map[string][]byte) { d[bundleKey] = append(d[bundleKey], d[signerKey]...) },
		"no key":                     func(d map[string][]byte) { delete(d, signerKey) },
		"half a key":                 func(d map[string][]byte) { d[signerKey] = d[signerKey][:100] },
		"the key of another":         func(d map[string][]byte) { d[signerKey] = other.signer.pem },
		"no authority":               func(d map[string][]byte) { d[bundleKey], d[signerKey] = leaf, leafKey },
		"the next has no cert":       func(d map[string][]byte) { d[bundleKey] = a.Bundle() },
		"the next has another's key": func(d map[string][]byte) { d[nextKey] = other.signer.pem },
		"may not sign": func(d map[string][]byte) {
			replace(t, d, nil, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
		},
		"no basic constraints": func(d map[string][]byte) {
			replace(t, d, nil, func(c *x509.Certificate) { c.BasicConstraintsValid = false })
		},
		"signed by another": func(d map[string][]byte) { replace(t, d, other, func(*x509.Certificate) {}) },
		"another curve": func(d map[string][]byte) {
			replaceKey(t, d, func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) })
		},
		"RSA": func(d map[string][]byte) {
			replaceKey(t, d, func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) })
		},
		"a bit has changed": func(d map[string][]byte) {
			der := slices.Clone(both.signer.cert.Raw)
			der[len(der)-1] ^= 1
			d[bundleKey] = append(encode(certificateBlock, der), encode(certificateBlock, both.next.cert.Raw)...)
		},
		"from the future": func(d map[string][]byte) {
			for k, v := range newAuthority(t, noon.Add(2*time.Hour)).Data() {
				d[k] = v
			}
			delete(d, nextKey)
		},
	} {
		d := both.Data()
		change(d)
		_, err := Parse(d, noon)
		if err == nil {
			t.Errorf("%s: taken", name)
			continue
		}
		for _, part := range d {
			if len(part) > 60 && strings.Contains(err.Error(), string(part[30:60])) {
				t.Errorf("%s: the error tells what is in the PEM: %v", name, err)
			}
		}
	}
}

// replace puts another authority into data, made from the template of New with a
// change, and signed by another one unless that is nil.
func replace(t *testing.T, data map[string][]byte, by *Authority, change func(*x509.Certificate)) {
	t.Helper()
	key, text, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	template := authorityTemplate("vms", noon)
	change(template)
	issuer, signer := template, key
	if by != nil {
		issuer, signer = by.signer.cert, by.signer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	clear(data)
	data[bundleKey], data[signerKey] = encode(certificateBlock, der), text
}

// replaceKey puts an authority with another kind of key into data.
func replaceKey(t *testing.T, data map[string][]byte, generate func() (crypto.Signer, error)) {
	t.Helper()
	key, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	template := authorityTemplate("vms", noon)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	clear(data)
	data[bundleKey], data[signerKey] = encode(certificateBlock, der), encode(keyBlock, text)
}
