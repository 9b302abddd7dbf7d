package main

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

func pool(t *testing.T, file string) *x509.CertPool {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(b) {
		t.Fatalf("%s holds no certificate", file)
	}
	return p
}

func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	if err := run(folder(dir), "https://10.0.0.1:6443", []string{"10.0.0.1", "kubernetes"}, []string{"n1=10.0.0.11", "n2=10.0.0.12"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file, ca, dnsName, name string
		groups                  []string
		usage                   x509.ExtKeyUsage
	}{
		{"apiserver", "ca", "kubernetes", "kube-apiserver", nil, x509.ExtKeyUsageServerAuth},
		{"apiserver", "ca", "10.0.0.1", "kube-apiserver", nil, x509.ExtKeyUsageServerAuth},
		{"kubelet-server-n2", "ca", "10.0.0.12", "system:node:n2", []string{"system:nodes"}, x509.ExtKeyUsageServerAuth},
		{"kubelet-n1", "ca", "", "system:node:n1", []string{"system:nodes"}, x509.ExtKeyUsageClientAuth},
		{"admin", "ca", "", "kubernetes-admin", []string{"system:masters"}, x509.ExtKeyUsageClientAuth},
		{"front-proxy-client", "front-proxy-ca", "", "front-proxy-client", nil, x509.ExtKeyUsageClientAuth},
	} {
		p := filepath.Join(dir, c.file)
		cert, err := tls.LoadX509KeyPair(p+".crt", p+".key")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{
			Roots: pool(t, filepath.Join(dir, c.ca+".crt")), DNSName: c.dnsName, KeyUsages: []x509.ExtKeyUsage{c.usage},
		}); err != nil {
			t.Errorf("%s: %v", c.file, err)
		}
		if s := cert.Leaf.Subject; s.CommonName != c.name || !slices.Equal(s.Organization, c.groups) {
			t.Errorf("%s is of %q in %q", c.file, s.CommonName, s.Organization)
		}
	}
}

func TestKubeconfig(t *testing.T) {
	dir := t.TempDir()
	if err := run(folder(dir), "https://10.0.0.1:6443", nil, nil); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "admin.kubeconfig")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`server: "https://10\.0\.0\.1:6443"`, `certificate-authority-data: LS0t\S+`, `client-certificate-data: LS0t\S+`, `client-key-data: LS0t\S+`,
	} {
		if !regexp.MustCompile(want).Match(b) {
			t.Errorf("no %s", want)
		}
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("a kubeconfig is a key: mode %v, %v", st.Mode(), err)
	}
}

func TestNodeWithoutAddress(t *testing.T) {
	if err := run(folder(t.TempDir()), "https://10.0.0.1:6443", nil, []string{"n1"}); err == nil {
		t.Error("is accepted")
	}
}
