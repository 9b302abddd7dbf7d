// Package certificates serves a directory of PEM files as the configuration of
// a TLS server. Each handshake looks whether the files have changed and loads
// them anew if they have; sessions that are open go on with what they began
// with. Nothing watches the directory, and nothing has to be stopped. Where the
// storage doesn't answer, handshakes go on with what was loaded before.
//
// The layout is that of nbdkit, qemu and libnbd: ca-cert.pem, server-cert.pem,
// server-key.pem.
package certificates

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// patience is how long a look at the files may take that handshakes wait for. They
// have a bound of their own, which is longer.
const patience = 5 * time.Second

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
	stat    func(path string, st *syscall.Stat_t) error // syscall.Stat

	// looking is held by who looks at the files, for as long as the storage takes.
	looking sync.Mutex
	failed  *files // were logged already as no good

	// mu is never held while the storage is asked.
	mu     sync.Mutex
	look   context.Context // of the look that handshakes wait for; nil if there is none
	loaded *content        // changed by who holds looking too
	warned bool            // of the certificate in use, that it isn't valid now
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
	d := &Directory{path: path, options: o, stat: syscall.Stat}
	c, err := d.load(d.identify())
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
			return d.current().config, nil
		},
	}
}

// Reload loads the files now, changed or not, however long the storage takes. On an
// error those from before stay in use.
func (d *Directory) Reload() error { return d.refresh(true) }

// NotAfter returns until when the server's certificate is valid, and the first
// one to expire in ca-cert.pem, which is the zero time if there is no such file.
// They are those that a handshake would use now.
func (d *Directory) NotAfter() (server, ca time.Time) {
	c := d.current()
	return c.leaf.NotAfter, c.caNotAfter
}

// current returns what to use now. One look at the files is under way at a time, and
// all who ask meanwhile wait for it, until its time is over: storage that hangs
// must not hang them.
func (d *Directory) current() *content {
	d.mu.Lock()
	look := d.look
	begun := look == nil
	if begun {
		var done context.CancelFunc
		look, done = context.WithTimeout(context.Background(), patience)
		d.look = look
		go func() {
			defer done()
			_ = d.refresh(false) // of files that are no good the log has been told
			d.mu.Lock()
			d.look = nil
			d.mu.Unlock()
		}()
	}
	d.mu.Unlock()
	<-look.Done()
	if begun && errors.Is(look.Err(), context.DeadlineExceeded) {
		d.options.Log.Error("the storage with the certificates doesn't answer; those from before stay in use", zap.String("directory", d.path))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.warn()
	return d.loaded
}

// refresh has what the files hold used from now on, if they have changed and are
// good; the error says why they aren't. Files that are no good are tried again each
// time: what was wrong may have been the moment.
func (d *Directory) refresh(force bool) error {
	d.looking.Lock()
	defer d.looking.Unlock()
	now := d.identify()
	if !force && now == d.loaded.files {
		return nil
	}
	next, err := d.load(now)
	if err != nil {
		if d.failed == nil || now != *d.failed {
			d.failed = &now
			d.options.Log.Error("the changed certificates are no good; those from before stay in use", zap.Error(err))
		}
		return err
	}
	d.failed = nil
	d.options.Log.Info("certificates loaded", zap.String("directory", d.path),
		zap.Time("notAfter", next.leaf.NotAfter), zap.Stringer("serial", next.leaf.SerialNumber))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.loaded, d.warned = next, false
	d.warn()
	return nil
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
