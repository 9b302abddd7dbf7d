package nbdserver

import (
	"crypto/tls"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/nbdexport/nbdexport/nbdserver/certificates"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// TLSMode is one of the specification's modes of operation ("TLS support").
type TLSMode int

// Modes.
const (
	// TLSOff: NBD_OPT_STARTTLS is refused (NOTLS).
	TLSOff TLSMode = iota
	// TLSOn: the client may start TLS, and must for exports with RequireTLS
	// (SELECTIVETLS).
	TLSOn
	// TLSRequire: the client must start TLS before anything else (FORCEDTLS).
	TLSRequire
)

// TLS is how a Server does TLS, which a client starts with NBD_OPT_STARTTLS.
type TLS struct {
	Mode TLSMode
	// Config of the server's side, which must not be nil unless Mode is TLSOff.
	// certificates.Directory makes one.
	Config *tls.Config
}

// errTLS is how a connection ends whose TLS handshake fails.
var errTLS = errors.New(tlsFailed.words())

// maxJoin is up to which length in bytes the parts of a reply over TLS are joined,
// for each would have a record of its own else: one holds 16 KiB.
const maxJoin = 16 << 10

// TLS returns the state of the client's TLS session, and false if it has none,
// or not yet. The client was verified if there are VerifiedChains in it. It may
// be called from any goroutine, those of Backends among them.
func (c *Conn) TLS() (tls.ConnectionState, bool) {
	c.mu.Lock()
	t := c.tls
	c.mu.Unlock()
	if t == nil {
		return tls.ConnectionState{}, false
	}
	return t.ConnectionState(), true
}

// canTLS tells whether the client can start TLS, or could have.
func (c *Conn) canTLS() bool { return c.srv.TLS != nil && c.srv.TLS.Mode != TLSOff }

// tlsForced tells whether the client must start TLS before anything else.
func (c *Conn) tlsForced() bool {
	return c.srv.TLS != nil && c.srv.TLS.Mode == TLSRequire && c.tls == nil
}

// mayUse tells whether an export is for the client as the connection stands.
func (c *Conn) mayUse(e *Export) bool { return c.tls != nil || !e.RequireTLS }

// lookup finds an export that the client may use.
func (c *Conn) lookup(name string) *Export {
	if e := c.srv.lookup(name); e != nil && c.mayUse(e) {
		return e
	}
	return nil
}

// tlsHides tells whether there are exports that the client would find once it
// has started TLS. Until then it learns of no name whether it is one of them.
func (c *Conn) tlsHides() bool {
	for _, e := range c.srv.Exports {
		if !c.mayUse(e) {
			return c.canTLS()
		}
	}
	return false
}

// startTLS answers OptStartTLS, and does the handshake within what is left of
// the time for the negotiation.
func (c *Conn) startTLS(payload []byte) error {
	switch {
	case c.tls != nil:
		return c.fail(wire.OptStartTLS, wire.RepErrInvalid, "TLS was started already")
	case !c.canTLS():
		return c.fail(wire.OptStartTLS, wire.RepErrPolicy, "this server doesn't do TLS")
	case len(payload) != 0:
		return c.fail(wire.OptStartTLS, wire.RepErrInvalid, "the option has no payload")
	}
	// Who listens in can put plaintext behind the client's option. It must not
	// be taken for what the client says over TLS (CVE-2021-3716). A client waits
	// for the answer, so it can't be the client's.
	if n := c.br.Buffered(); n != 0 {
		return fmt.Errorf("%w: at least %d bytes of plaintext follow NBD_OPT_STARTTLS", errBadRequest, n)
	}
	if err := c.reply(wire.OptStartTLS, wire.RepAck, nil); err != nil {
		return err
	}
	t := tls.Server(c.raw, c.srv.TLS.Config)
	if err := t.Handshake(); err != nil {
		return fmt.Errorf("%w: %w", errTLS, err)
	}
	c.mu.Lock()
	c.nc, c.tls = t, t
	c.mu.Unlock()
	c.br.Reset(t)
	c.forget()
	return nil
}

// forget drops what was negotiated in plaintext, where anybody may have said it.
func (c *Conn) forget() {
	c.size = 0
	c.structured = false
	c.extended = false
	c.allocation = nil
}

// endTLS tells the client that what it has got is all there is: without that, a
// close may be somebody else's. It takes 5 s at most, of a client that doesn't
// read.
func (c *Conn) endTLS() {
	if c.tls != nil {
		// The client may be gone already; that is as well.
		_ = c.tls.CloseWrite()
	}
}

// joins tells whether the n bytes of a reply go into one record of TLS.
func (c *Conn) joins(n int) bool { return c.tls != nil && n <= maxJoin }

// tlsFields are what the log says about the TLS session.
func (c *Conn) tlsFields() []zap.Field {
	s, ok := c.TLS()
	if !ok {
		return nil
	}
	fields := []zap.Field{zap.String("tls", tls.VersionName(s.Version)), zap.String("cipher", tls.CipherSuiteName(s.CipherSuite))}
	if len(s.VerifiedChains) > 0 {
		leaf := s.PeerCertificates[0]
		fields = append(fields, zap.Stringer("client", leaf.Subject), zap.Strings("clientNames", certificates.SANs(leaf)))
	}
	return fields
}
