package nbdserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/certificates"
	"github.com/nbdexport/nbdexport/nbdserver/certificates/certificatestest"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// What somebody puts behind STARTTLS in plaintext is never taken for the
// client's (CVE-2021-3716).
func TestPlaintextBehindStartTLS(t *testing.T) {
	option := func(o wire.Option, payload ...any) []byte {
		p := pack(payload...)
		return pack("IHAVEOPT", uint32(o), uint32(len(p)), p)
	}
	for name, injected := range map[string][]byte{
		"an option":        option(wire.OptStructuredReply),
		"half an option":   []byte("IHAVE"),
		"an export chosen": option(wire.OptExportName, "disk"),
	} {
		t.Run(name, func(t *testing.T) {
			s := newMemory(t, 1<<20)
			encrypt(t, s, TLSOn, certificates.Options{})
			logs := observe(s)
			c := dial(t, listen(t, s))
			c.greet(3)
			c.put(option(wire.OptStartTLS), injected)
			c.eof()
			s.handlers.Wait()
			if got := ends(logs); len(got) != 1 || !strings.Contains(got[0], "plaintext") {
				t.Errorf("the log says %q", got)
			}
		})
		t.Run(name+", later", func(t *testing.T) {
			s := newMemory(t, 1<<20)
			encrypt(t, s, TLSOn, certificates.Options{})
			logs := observe(s)
			c := dial(t, listen(t, s))
			c.greet(3)
			c.option(wire.OptStartTLS)
			c.expect(wire.OptStartTLS, wire.RepAck)
			c.put(injected)
			c.Conn.(*net.TCPConn).CloseWrite()
			for b := c.all(); len(b) > 0; { // an alert at most
				if n := 5 + int(b[3])<<8 + int(b[4]); b[0] == 21 && len(b) >= n {
					b = b[n:]
					continue
				}
				t.Fatalf("the server says %q", b)
			}
			s.handlers.Wait()
			if got := ends(logs); len(got) != 1 || !strings.Contains(got[0], "TLS handshake failed") {
				t.Errorf("the log says %q", got)
			}
		})
	}
}

// The whole negotiation has one time limit, the TLS handshake included.
func TestStalledTLSHandshake(t *testing.T) {
	for name, say := range map[string]string{"nothing": "", "half a record": "\x16\x03\x01\x02\x00\x01", "garbage": "\x16\x03\x01\x00\x05hell"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 1<<20)
				encrypt(t, s, TLSRequire, certificates.Options{})
				logs := observe(s)
				c := connect(t, s)
				start := time.Now()
				c.greet(3)
				time.Sleep(time.Second)
				c.option(wire.OptStartTLS)
				c.expect(wire.OptStartTLS, wire.RepAck)
				c.put(say)
				c.eof()
				if d := time.Since(start); d != DefaultHandshakeTimeout {
					t.Errorf("closed after %v", d)
				}
				s.handlers.Wait()
				if got := ends(logs); len(got) != 1 || got[0] != errHandshake.Error() {
					t.Errorf("the log says %q", got)
				}
			})
		})
	}
}

// A client that doesn't like the server's certificate may just go away; the log
// says at which point.
func TestClientLeavesInTLSHandshake(t *testing.T) {
	s := newMemory(t, 1<<20)
	encrypt(t, s, TLSRequire, certificates.Options{})
	logs := observe(s)
	c := dial(t, listen(t, s))
	c.greet(3)
	c.option(wire.OptStartTLS)
	c.expect(wire.OptStartTLS, wire.RepAck)
	c.Close()
	s.handlers.Wait()
	if got := ends(logs); len(got) != 1 || !strings.Contains(got[0], "TLS handshake failed") {
		t.Errorf("the log says %q", got)
	}
}

// asking is a Backend that asks for the TLS session of whoever reads.
type asking struct {
	backend.Backend
	states chan tls.ConnectionState
}

func (a *asking) ReadAt(ctx context.Context, p []byte, off uint64) error {
	if state, ok := ConnFromContext(ctx).TLS(); ok {
		a.states <- state
	} else {
		close(a.states)
	}
	return a.Backend.ReadAt(ctx, p, off)
}

func TestTLSIdentity(t *testing.T) {
	for _, verify := range []bool{true, false} {
		s := newMemory(t, 1<<20)
		client, _ := encrypt(t, s, TLSRequire, certificates.Options{VerifyPeer: verify})
		a := &asking{s.Exports[0].Backend, make(chan tls.ConnectionState, 1)}
		s.Exports[0].Backend = a
		logs := observe(s)
		c := dial(t, listen(t, s))
		c.greet(3)
		c.startTLS(client)
		c.option(wire.OptGo, str(""), uint16(0))
		c.expect(wire.OptGo, wire.RepAck)
		c.request(0, wire.CmdRead, 1, 0, 4)
		c.must(1, 0)
		c.get(4)
		if state, ok := <-a.states; !ok || len(state.VerifiedChains) > 0 != verify {
			t.Errorf("a Backend is told %v of a client with %d chains", ok, len(state.VerifiedChains))
		}
		c.request(0, wire.CmdDisc, 2, 0, 0)
		c.eof()
		s.handlers.Wait()
		fields := logs.FilterMessage("connection").All()[0].ContextMap()
		if fields["tls"] != "TLS 1.3" || !strings.HasPrefix(fields["cipher"].(string), "TLS_") {
			t.Errorf("the log says %v", fields)
		}
		names, _ := fields["clientNames"].([]any)
		if verify != (fields["client"] == "CN=backup") || verify != slices.Contains(names, any("DNS:backup.example")) {
			t.Errorf("of a client that is verified: %v, the log says %v", verify, fields)
		}
	}

	s := newMemory(t, 1<<20)
	a := &asking{s.Exports[0].Backend, make(chan tls.ConnectionState, 1)}
	s.Exports[0].Backend = a
	c := dial(t, listen(t, s))
	c.begin(false)
	c.request(0, wire.CmdRead, 1, 0, 4)
	c.must(1, 0)
	if _, ok := <-a.states; ok {
		t.Error("a client without TLS has a session")
	}
}

// corked is a connection whose second and later writes are held back.
type corked struct {
	net.Conn
	writes int
	held   []byte
}

func (c *corked) Write(p []byte) (int, error) {
	if c.writes++; c.writes == 1 {
		return c.Conn.Write(p)
	}
	c.held = append(c.held, p...)
	return len(p), nil
}

// refused does the handshake of a client that is refused, which it learns only
// when it reads: what it has to say is behind its certificate already. The
// connection must not be reset for that, or it may learn nothing.
func (c *rawClient) refused(config *tls.Config) error {
	c.t.Helper()
	c.greet(3)
	c.option(wire.OptStartTLS)
	c.expect(wire.OptStartTLS, wire.RepAck)
	defer c.Close()
	cork := &corked{Conn: c.Conn}
	t := tls.Client(cork, config)
	_, err := t.Write(make([]byte, 64<<10))
	c.put(cork.held)
	if err != nil {
		return err
	}
	_, err = t.Read(make([]byte, 1))
	if _, end := io.ReadAll(c); end != nil {
		c.t.Errorf("the connection ends with %v", end)
	}
	return err
}

func TestRefusedClientLearnsWhy(t *testing.T) {
	s := newMemory(t, 1<<20)
	allowed, err := certificates.ParseSAN("DNS:*.allowed.example")
	if err != nil {
		t.Fatal(err)
	}
	client, _ := encrypt(t, s, TLSOn, certificates.Options{VerifyPeer: true, AllowSANs: []certificates.SAN{allowed}})
	logs := observe(s)
	a := listen(t, s)
	anonymous := client.Clone()
	anonymous.Certificates = nil
	if err := dial(t, a).refused(anonymous); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate: %v", err)
	}
	if err := dial(t, a).refused(client); err == nil || !strings.Contains(err.Error(), "bad certificate") {
		t.Errorf("without an allowed name: %v", err)
	}
	s.handlers.Wait()
	got := strings.Join(ends(logs), "\n")
	if !strings.Contains(got, "didn't provide a certificate") || !strings.Contains(got, "it has DNS:backup.example") {
		t.Errorf("the log says %s", got)
	}
}

// Certificates are replaced: who is there stays, who comes sees the new ones.
func TestCertificatesAreReplaced(t *testing.T) {
	s := newMemory(t, 1<<20)
	client, dir := encrypt(t, s, TLSRequire, certificates.Options{VerifyPeer: true})
	a := listen(t, s)
	old := dial(t, a)
	old.greet(3)
	old.startTLS(client)
	next := certificatestest.NewAuthority(t, "next")
	next.Write(t, dir, "server", certificatestest.Server())
	old.option(wire.OptGo, str(""), uint16(0))
	old.expect(wire.OptGo, wire.RepAck)

	// A client of the old authority that goes by the new one.
	turncoat := trusting(t, next, x509.Certificate{})
	turncoat.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &client.Certificates[0], nil }
	if err := dial(t, a).refused(turncoat); err == nil || !strings.Contains(err.Error(), "unknown certificate authority") {
		t.Errorf("a client of the old authority: %v", err)
	}
	if err := dial(t, a).refused(client); err == nil {
		t.Error("a client that trusts the old authority trusts the new server")
	}
	c := dial(t, a)
	c.greet(3)
	c.startTLS(trusting(t, next, x509.Certificate{}))
	c.option(wire.OptGo, str(""), uint16(0))
	c.expect(wire.OptGo, wire.RepAck)
	for _, c := range []*rawClient{old, c} {
		c.request(0, wire.CmdRead, 1, 0, 4)
		c.must(1, 0)
		c.get(4)
	}
}
