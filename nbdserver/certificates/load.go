package certificates

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// The files of a directory.
const (
	// CAFile holds the authorities that sign the certificates of clients.
	CAFile = "ca-cert.pem"
	// CertFile holds the server's certificate, and those between it and its
	// authority, if any.
	CertFile = "server-cert.pem"
	// KeyFile holds the private key that belongs to it, without a passphrase.
	KeyFile = "server-key.pem"
)

// maxFile is far more than the largest of such files has, in bytes.
const maxFile = 1 << 20

// content is what was loaded from a directory.
type content struct {
	files      files
	server     tls.Certificate
	leaf       *x509.Certificate // of server
	pool       *x509.CertPool
	caNotAfter time.Time
	config     *tls.Config
}

// files tells the files of a directory from others that were put in their
// place, and from what they held before they were written to.
type files [3]identity

type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// identify looks at the files behind any symbolic links: Kubernetes replaces a
// link to their directory. A file that can't be looked at is all zeroes.
func (d *Directory) identify() (f files) {
	for i, name := range []string{CAFile, CertFile, KeyFile} {
		var st syscall.Stat_t
		if d.stat(filepath.Join(d.path, name), &st) == nil {
			f[i] = identity{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}
		}
	}
	return f
}

// load reads the files. They were looked at before, so that a change in between
// is noticed the next time.
func (d *Directory) load(seen files) (*content, error) {
	c := &content{files: seen}
	cert, err := d.read(CertFile)
	if err != nil {
		return nil, err
	}
	key, err := d.read(KeyFile)
	if err != nil {
		return nil, err
	}
	if c.server, err = tls.X509KeyPair(cert, key); err != nil {
		return nil, fmt.Errorf("%s and %s in %s are no pair of a certificate and its key in PEM: %w", CertFile, KeyFile, d.path, err)
	}
	c.leaf = c.server.Leaf
	ca, err := d.read(CAFile)
	switch {
	case err == nil:
		if err := c.parseCA(ca); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(d.path, CAFile), err)
		}
	case d.options.VerifyPeer || !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	c.config = d.config(c)
	return c, nil
}

func (d *Directory) read(name string) ([]byte, error) {
	path := filepath.Join(d.path, name)
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: put %s and %s there, and %s to verify clients", err, CertFile, KeyFile, CAFile)
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular() || st.Size() > maxFile:
		return nil, fmt.Errorf("%s is no file of at most %d bytes", path, maxFile)
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w: make it readable for user %d, as whom the server runs", err, os.Geteuid())
	}
	return b, err
}

// parseCA reads one or more certificates in PEM.
func (c *content) parseCA(b []byte) error {
	c.pool = x509.NewCertPool()
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		c.pool.AddCert(cert)
		if c.caNotAfter.IsZero() || cert.NotAfter.Before(c.caNotAfter) {
			c.caNotAfter = cert.NotAfter
		}
	}
	if c.caNotAfter.IsZero() {
		return errors.New("there is no certificate in PEM in it")
	}
	return nil
}
