// Package certificates serves a directory of PEM files as the configuration of
// a TLS server. Each handshake looks whether the files have changed and loads
// them anew if they have; sessions that are open go on with what they began
// with. Nothing watches the directory, and nothing has to be stopped.
//
// The layout is that of nbdkit, qemu and libnbd: ca-cert.pem, server-cert.pem,
// server-key.pem.
package certificates

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Options say what is asked of clients. The zero value lets all of them in.
type Options struct {
	// VerifyPeer asks clients for a certificate that is good for client
	// authentication and signed by one of the authorities in ca-cert.pem.
	VerifyPeer bool
	// AllowSANs are patterns of which one must match a subject alternative name
	// of the client's certificate; none means that every certificate is good
	// enough. They need VerifyPeer.
	AllowSANs []SAN
	// Log is told when the files have changed, and what is wrong with them; nil
	// is silence.
	Log *zap.Logger
}

// Directory hands out what the files of a directory hold. Its methods may be
// called from any goroutine.
type Directory struct {
	path    string
	options Options

	mu     sync.Mutex
	loaded *content
	failed *files // were logged already as no good
	warned bool   // of the certificate in use, that it isn't valid now
}

// Open loads the files of a directory. Without Options.VerifyPeer there need be
// no ca-cert.pem.
func Open(path string, o Options) (*Directory, error) {
	if len(o.AllowSANs) > 0 && !o.VerifyPeer {
		return nil, errors.New("names of clients can be checked only if clients are verified")
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	d := &Directory{path: path, options: o}
	now := d.stat()
	c, err := d.load(now)
	if err != nil {
		return nil, err
	}
	d.loaded = c
	d.warn()
	return d, nil
}

// Config returns the configuration of a TLS server: TLS 1.2 at least, each
// handshake with the certificates that are in the directory then.
func (d *Directory) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			// Of files that are no good the log has been told.
			c, _ := d.refresh(false)
			return c.config, nil
		},
	}
}

// Reload loads the files now, changed or not. On an error those from before stay
// in use.
func (d *Directory) Reload() error {
	_, err := d.refresh(true)
	return err
}

// NotAfter returns until when the server's certificate is valid, and the first
// one to expire in ca-cert.pem, which is the zero time if there is no such file.
// They are those that a handshake would use now.
func (d *Directory) NotAfter() (server, ca time.Time) {
	c, _ := d.refresh(false)
	return c.leaf.NotAfter, c.caNotAfter
}

// refresh returns what to use now: what the files hold if they have changed and
// are good, or else what was loaded before, with an error if they have changed.
// Files that are no good are tried again each time: what was wrong may have been
// the moment.
func (d *Directory) refresh(force bool) (*content, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	if now := d.stat(); force || now != d.loaded.files {
		var next *content
		if next, err = d.load(now); err == nil {
			d.loaded, d.failed, d.warned = next, nil, false
			d.options.Log.Info("certificates loaded", zap.String("directory", d.path),
				zap.Time("notAfter", next.leaf.NotAfter), zap.Stringer("serial", next.leaf.SerialNumber))
		} else if d.failed == nil || now != *d.failed {
			d.failed = &now
			d.options.Log.Error("the changed certificates are no good; those from before stay in use", zap.Error(err))
		}
	}
	d.warn()
	return d.loaded, err
}

// warn says once of a certificate that it isn't valid: it is served
// nevertheless, for the client's clock is what counts.
func (d *Directory) warn() {
	now, leaf := time.Now(), d.loaded.leaf
	if d.warned || !now.After(leaf.NotAfter) && !now.Before(leaf.NotBefore) {
		return
	}
	d.warned = true
	d.options.Log.Warn("the server's certificate is not valid now: clients will refuse it",
		zap.String("directory", d.path), zap.Time("notBefore", leaf.NotBefore), zap.Time("notAfter", leaf.NotAfter))
}

// config is the configuration of the handshakes that use c.
func (d *Directory) config(c *content) *tls.Config {
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{c.server},
		// A client that resumes a session isn't verified again, and would go
		// round an authority that was replaced.
		SessionTicketsDisabled: true,
	}
	if d.options.VerifyPeer {
		config.ClientAuth = tls.RequireAndVerifyClientCert
		config.ClientCAs = c.pool
	}
	if len(d.options.AllowSANs) > 0 {
		config.VerifyConnection = d.checkSANs
	}
	return config
}

// checkSANs refuses a verified client whose certificate has none of the names
// that are allowed.
func (d *Directory) checkSANs(s tls.ConnectionState) error {
	leaf := s.PeerCertificates[0]
	for _, p := range d.options.AllowSANs {
		if p.Match(leaf) {
			return nil
		}
	}
	offered := "none at all"
	if all := SANs(leaf); len(all) > 0 {
		offered = strings.Join(all, ", ")
	}
	return fmt.Errorf("no subject alternative name of the client's certificate is allowed; it has %s", offered)
}
