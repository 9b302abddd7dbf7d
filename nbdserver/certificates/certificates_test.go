package certificates

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/nbdexport/nbdexport/nbdserver/certificates/certificatestest"
)

// handshake has a client speak to a server, and returns
// what the client saw, and the errors of both.
func handshake(t *testing.T, server, client *tls.Config) (state tls.ConnectionState, clientErr, serverErr error) {
	t.Helper()
	// A pipe has no buffer: both sides would wait with an alert for the other.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		nc, err := l.Accept()
		if err == nil {
			defer nc.Close()
			s := tls.Server(nc, server)
			if err = s.Handshake(); err == nil {
				_, err = s.Write([]byte("x"))
			}
		}
		done <- err
	}()
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(nc, client)
	// A client of TLS 1.3 is told that it is refused after its handshake.
	_, clientErr = c.Read(make([]byte, 1))
	state = c.ConnectionState()
	nc.Close()
	return state, clientErr, <-done
}

// trusting is the configuration of a client of the server "localhost".
func trusting(a *certificatestest.Authority) *tls.Config {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.PEM)
	return &tls.Config{RootCAs: pool, ServerName: "localhost"}
}

// as adds a certificate of the client.
func as(t *testing.T, config *tls.Config, by *certificatestest.Authority, template x509.Certificate) *tls.Config {
	t.Helper()
	cert, err := tls.X509KeyPair(by.Issue(t, template))
	if err != nil {
		t.Fatal(err)
	}
	config = config.Clone()
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &cert, nil // also one that the server doesn't ask for
	}
	return config
}

func logger() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zap.InfoLevel)
	return zap.New(core), logs
}

func open(t *testing.T, dir string, o Options) *Directory {
	t.Helper()
	d, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestVersions(t *testing.T) {
	ca, dir := certificatestest.NewAuthority(t, "ca"), t.TempDir()
	ca.Write(t, dir, "server", certificatestest.Server())
	d := open(t, dir, Options{})
	for version, ok := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		config := trusting(ca)
		config.MinVersion, config.MaxVersion = version, version
		state, _, err := handshake(t, d.Config(), config)
		if (err == nil) != ok || ok && state.Version != version {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
	}
}

func TestNoSessionIsResumed(t *testing.T) {
	ca, dir := certificatestest.NewAuthority(t, "ca"), t.TempDir()
	ca.Write(t, dir, "server", certificatestest.Server())
	server := open(t, dir, Options{}).Config()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := trusting(ca)
		config.MaxVersion = version
		config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		for range 2 {
			if state, err, _ := handshake(t, server, config); err != nil || state.DidResume {
				t.Errorf("%s: resumed %v, %v", tls.VersionName(version), state.DidResume, err)
			}
		}
	}
}

func TestVerifyPeer(t *testing.T) {
	ca, other, dir := certificatestest.NewAuthority(t, "ca"), certificatestest.NewAuthority(t, "other"), t.TempDir()
	ca.Write(t, dir, "server", certificatestest.Server())
	d := open(t, dir, Options{VerifyPeer: true})
	plain := trusting(ca)
	tests := []struct {
		name   string
		client *tls.Config
		ok     bool
	}{
		{"good", as(t, plain, ca, x509.Certificate{}), true},
		{"none", plain, false},
		{"of another authority", as(t, plain, other, x509.Certificate{}), false},
		{"expired", as(t, plain, ca, x509.Certificate{NotAfter: time.Unix(1e9, 0)}), false},
		{"not valid yet", as(t, plain, ca, x509.Certificate{NotBefore: time.Now().Add(time.Hour)}), false},
		{"for servers", as(t, plain, ca, x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}), false},
	}
	for _, tt := range tests {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			tt.client.MaxVersion = version
			if _, clientErr, err := handshake(t, d.Config(), tt.client); (err == nil) != tt.ok || (clientErr == nil) != tt.ok {
				t.Errorf("%s, %s: server %v, client %v", tt.name, tls.VersionName(version), err, clientErr)
			}
		}
	}
}

func TestAllowSANs(t *testing.T) {
	ca, dir := certificatestest.NewAuthority(t, "ca"), t.TempDir()
	ca.Write(t, dir, "server", certificatestest.Server())
	backup, _ := ParseSAN("DNS:*.backup.example")
	net10, _ := ParseSAN("IP:10.0.0.0/8")
	d := open(t, dir, Options{VerifyPeer: true, AllowSANs: []SAN{backup, net10}})
	plain := trusting(ca)
	for _, good := range []x509.Certificate{
		{DNSNames: []string{"other.example", "one.backup.example"}},
		{IPAddresses: []net.IP{net.IPv4(10, 1, 2, 3)}},
	} {
		if _, _, err := handshake(t, d.Config(), as(t, plain, ca, good)); err != nil {
			t.Errorf("%v: %v", SANs(&good), err)
		}
	}
	_, clientErr, err := handshake(t, d.Config(), as(t, plain, ca, x509.Certificate{DNSNames: []string{"a.example"}, EmailAddresses: []string{"b@c.example"}}))
	if clientErr == nil || err == nil || !strings.Contains(err.Error(), "DNS:a.example, email:b@c.example") {
		t.Errorf("server %v, client %v", err, clientErr)
	}
	if _, _, err := handshake(t, d.Config(), as(t, plain, ca, x509.Certificate{})); err == nil || !strings.Contains(err.Error(), "none at all") {
		t.Errorf("a client without names: %v", err)
	}
	if _, err := Open(dir, Options{AllowSANs: []SAN{backup}}); err == nil {
		t.Error("names are to be checked of clients that aren't verified")
	}
}

func TestReload(t *testing.T) {
	// As Kubernetes does it: a link to a directory is replaced.
	root := t.TempDir()
	dir, data := filepath.Join(root, "tls"), filepath.Join(root, "tls", "..data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{CAFile, CertFile, KeyFile} {
		if err := os.Symlink("..data/"+name, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	swap := func(to string) {
		t.Helper()
		if err := os.Symlink(to, data+"_tmp"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(data+"_tmp", data); err != nil {
			t.Fatal(err)
		}
	}
	one, two := certificatestest.NewAuthority(t, "one"), certificatestest.NewAuthority(t, "two")
	template := certificatestest.Server()
	one.Write(t, root+"/one", "server", template)
	template.NotAfter = time.Date(2080, 1, 1, 0, 0, 0, 0, time.UTC)
	two.Write(t, root+"/two", "server", template)

	swap(root + "/one")
	log, logs := logger()
	d := open(t, dir, Options{VerifyPeer: true, Log: log})
	oldClient, newClient := as(t, trusting(one), one, x509.Certificate{}), as(t, trusting(two), two, x509.Certificate{})
	if _, err, _ := handshake(t, d.Config(), oldClient); err != nil {
		t.Error(err)
	}
	swap(root + "/two")
	if server, ca := d.NotAfter(); server.Year() != 2080 || ca.Year() != 2090 {
		t.Errorf("valid until %v, the authority's until %v", server, ca)
	}
	if _, err, _ := handshake(t, d.Config(), newClient); err != nil {
		t.Error(err)
	}
	if _, _, err := handshake(t, d.Config(), oldClient); err == nil {
		t.Error("a client of the old authority was let in")
	}
	// One that trusts the new certificate, but has a certificate of the old authority.
	if _, _, err := handshake(t, d.Config(), as(t, trusting(two), one, x509.Certificate{})); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("a client of the old authority: %v", err)
	}
	loaded := func() int { return logs.FilterMessage("certificates loaded").Len() }
	if n := loaded(); n != 1 {
		t.Errorf("%d lines say that certificates were loaded", n)
	}
	if err := d.Reload(); err != nil || loaded() != 2 {
		t.Errorf("Reload of the same files: %v, %d lines", err, loaded())
	}
}

func TestBadReloadKeepsTheOld(t *testing.T) {
	ca := certificatestest.NewAuthority(t, "ca")
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"the key is another's": func(t *testing.T, dir string) {
			_, key := ca.Issue(t, certificatestest.Server())
			write(t, dir, KeyFile, key)
		},
		"half a certificate": func(t *testing.T, dir string) {
			b, _ := os.ReadFile(filepath.Join(dir, CertFile))
			write(t, dir, CertFile, b[:len(b)/2])
		},
		"no certificate yet": func(t *testing.T, dir string) { write(t, dir, CertFile, nil) },
		"no authority yet":   func(t *testing.T, dir string) { write(t, dir, CAFile, nil) },
		"the key is gone":    func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, KeyFile)) },
		"the directory is gone": func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ca.Write(t, dir, "server", certificatestest.Server())
			log, logs := logger()
			d := open(t, dir, Options{VerifyPeer: true, Log: log})
			client := as(t, trusting(ca), ca, x509.Certificate{})
			before, err, _ := handshake(t, d.Config(), client)
			if err != nil {
				t.Fatal(err)
			}
			spoil(t, dir)
			for range 3 {
				now, err, _ := handshake(t, d.Config(), client)
				if err != nil || !now.PeerCertificates[0].Equal(before.PeerCertificates[0]) {
					t.Fatalf("the old certificate isn't in use any more: %v", err)
				}
			}
			if n := logs.FilterLevelExact(zap.ErrorLevel).Len(); n != 1 {
				t.Errorf("%d lines in the log about one change", n)
			}
			if err := d.Reload(); err == nil {
				t.Error("Reload returned no error")
			}
			ca.Write(t, dir, "server", certificatestest.Server())
			now, err, _ := handshake(t, d.Config(), client)
			if err != nil || now.PeerCertificates[0].Equal(before.PeerCertificates[0]) {
				t.Errorf("the new certificate isn't in use: %v", err)
			}
			if err := d.Reload(); err != nil {
				t.Error(err)
			}
		})
	}
}

func write(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	ca := certificatestest.NewAuthority(t, "ca")
	for name, tt := range map[string]struct {
		spoil func(dir string)
		names string // of what
	}{
		"no certificate":    {func(dir string) { os.Remove(dir + "/" + CertFile) }, CertFile},
		"no key":            {func(dir string) { os.Remove(dir + "/" + KeyFile) }, KeyFile},
		"no authority":      {func(dir string) { os.Remove(dir + "/" + CAFile) }, CAFile},
		"no directory":      {func(dir string) { os.RemoveAll(dir) }, CertFile},
		"key of another":    {func(dir string) { _, k := ca.Issue(t, x509.Certificate{}); write(t, dir, KeyFile, k) }, KeyFile},
		"bad authority":     {func(dir string) { write(t, dir, CAFile, []byte("not PEM")) }, CAFile},
		"a directory":       {func(dir string) { os.Remove(dir + "/" + KeyFile); os.Mkdir(dir+"/"+KeyFile, 0o755) }, KeyFile},
		"a file of 2 MiB":   {func(dir string) { write(t, dir, CertFile, make([]byte, 2<<20)) }, CertFile},
		"a link to nowhere": {func(dir string) { os.Remove(dir + "/" + CAFile); os.Symlink("nowhere", dir+"/"+CAFile) }, CAFile},
	} {
		dir := filepath.Join(t.TempDir(), "tls")
		ca.Write(t, dir, "server", certificatestest.Server())
		tt.spoil(dir)
		if _, err := Open(dir, Options{VerifyPeer: true}); err == nil || !strings.Contains(err.Error(), tt.names) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v; want an error that names %s", name, err, tt.names)
		}
	}
	dir := t.TempDir()
	ca.Write(t, dir, "server", certificatestest.Server())
	os.Remove(dir + "/" + CAFile)
	d := open(t, dir, Options{})
	if _, ca := d.NotAfter(); !ca.IsZero() {
		t.Errorf("an authority that isn't there is valid until %v", ca)
	}
	if _, err := Open(dir, Options{VerifyPeer: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without an authority: %v", err)
	}
}

// A certificate that has expired, or does so while it is in use, is served and
// warned of, once.
func TestExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, dir := certificatestest.NewAuthority(t, "ca"), t.TempDir()
		template := certificatestest.Server()
		template.NotAfter = time.Now().Add(time.Hour)
		ca.Write(t, dir, "server", template)
		log, logs := logger()
		d := open(t, dir, Options{Log: log})
		warnings := func() int { return logs.FilterLevelExact(zap.WarnLevel).Len() }
		if _, err, _ := handshake(t, d.Config(), trusting(ca)); err != nil || warnings() != 0 {
			t.Errorf("%d warnings, %v", warnings(), err)
		}
		time.Sleep(2 * time.Hour)
		for range 2 {
			var invalid *tls.CertificateVerificationError
			if _, err, _ := handshake(t, d.Config(), trusting(ca)); !errors.As(err, &invalid) || warnings() != 1 {
				t.Errorf("%d warnings, %v", warnings(), err)
			}
		}
	})
}
