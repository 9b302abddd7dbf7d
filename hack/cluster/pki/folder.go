package main

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
)

// A folder is where everything is written, readable by its owner only.
type folder string

func (f folder) write(name string, b []byte) error {
	return os.WriteFile(filepath.Join(string(f), name), b, 0o600)
}

func (f folder) writePEM(name, kind string, der []byte) ([]byte, error) {
	b := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	return b, f.write(name, b)
}

func (f folder) writeKey(name string, key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return f.writePEM(name, "PRIVATE KEY", der)
}

const kubeconfig = `apiVersion: v1
kind: Config
clusters:
- name: nbdexport-test
  cluster: {server: %q, certificate-authority-data: %s}
users:
- name: nbdexport-test
  user: {client-certificate-data: %s, client-key-data: %s}
contexts:
- name: nbdexport-test
  context: {cluster: nbdexport-test, user: nbdexport-test}
current-context: nbdexport-test
`

// kubeconfig writes FILE.kubeconfig, which holds all it needs itself.
func (c *ca) kubeconfig(id identity, server string) error {
	p, err := c.issue(id)
	if err != nil {
		return err
	}
	b64 := base64.StdEncoding.EncodeToString
	return c.dir.write(id.file+".kubeconfig", fmt.Appendf(nil, kubeconfig, server, b64(c.pem), b64(p.cert), b64(p.key)))
}
