package nbdserver

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"slices"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/nbdexport/nbdexport/nbdserver/certificates"
	"github.com/nbdexport/nbdexport/nbdserver/certificates/certificatestest"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// encrypt has a server do TLS and returns the configuration of its clients,
// which have certificates, and the server's directory.
func encrypt(t testing.TB, s *Server, mode TLSMode, o certificates.Options) (client *tls.Config, dir string) {
	t.Helper()
	ca := certificatestest.NewAuthority(t, "ca")
	dir = t.TempDir()
	ca.Write(t, dir, "server", certificatestest.Server())
	d, err := certificates.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	s.TLS = &TLS{mode, d.Config()}
	return trusting(t, ca, x509.Certificate{Subject: pkix.Name{CommonName: "backup"}, DNSNames: []string{"backup.example"}}), dir
}

// trusting is a client of the servers of an authority, with a certificate of it.
func trusting(t testing.TB, ca *certificatestest.Authority, template x509.Certificate) *tls.Config {
	t.Helper()
	cert, err := tls.X509KeyPair(ca.Issue(t, template))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.PEM)
	return &tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: []tls.Certificate{cert}}
}

// startTLS goes on over TLS.
func (c *rawClient) startTLS(config *tls.Config) {
	c.t.Helper()
	c.option(wire.OptStartTLS)
	c.expect(wire.OptStartTLS, wire.RepAck)
	t := tls.Client(c.Conn, config)
	if err := t.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	c.Conn = t
}

// observe has a server log to what is returned.
func observe(s *Server) *observer.ObservedLogs {
	core, logs := observer.New(zap.InfoLevel)
	s.Log = zap.New(core)
	return logs
}

// ends is how the log says that the connections ended.
func ends(logs *observer.ObservedLogs) (all []string) {
	for _, e := range logs.FilterMessage("connection").All() {
		all = append(all, e.ContextMap()["ended"].(string))
	}
	return all
}

// FORCEDTLS: whatever comes before STARTTLS is refused, and said nothing about.
func TestForcedTLS(t *testing.T) {
	alloc := str("base:allocation")
	for name, tt := range map[string]struct {
		option  wire.Option
		payload []any
	}{
		"list":                     {wire.OptList, nil},
		"list with a payload":      {wire.OptList, []any{"x"}},
		"info":                     {wire.OptInfo, []any{str("disk"), uint16(0)}},
		"info, no such export":     {wire.OptInfo, []any{str("nope"), uint16(0)}},
		"info, malformed":          {wire.OptInfo, nil},
		"go":                       {wire.OptGo, []any{str("disk"), uint16(0)}},
		"go, no such export":       {wire.OptGo, []any{str("nope"), uint16(0)}},
		"structured replies":       {wire.OptStructuredReply, nil},
		"extended headers":         {wire.OptExtendedHeaders, nil},
		"list contexts":            {wire.OptListMetaContext, []any{str("disk"), uint32(0)}},
		"set contexts":             {wire.OptSetMetaContext, []any{str("disk"), uint32(1), alloc}},
		"withdrawn, peek export":   {4, []any{"disk"}},
		"unknown":                  {4711, []any{"whatever"}},
		"unknown, 100 KiB of it":   {4711, []any{make([]byte, 100<<10)}},
		"set contexts, of 100 KiB": {wire.OptSetMetaContext, []any{make([]byte, 100<<10)}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newMemory(t, 1<<20)
			client, _ := encrypt(t, s, TLSRequire, certificates.Options{})
			c := dial(t, listen(t, s))
			c.greet(3)
			c.option(tt.option, tt.payload...)
			if got, p := c.replies(tt.option); !slices.Equal(got, []wire.OptionReply{wire.RepErrTLSReqd}) {
				t.Errorf("answered %#x (%q)", got, p)
			}
			// The negotiation goes on, and TLS_REQD isn't said any more.
			c.startTLS(client)
			c.option(tt.option, tt.payload...)
			if got, _ := c.replies(tt.option); slices.Contains(got, wire.RepErrTLSReqd) {
				t.Errorf("over TLS, answered %#x", got)
			}
		})
	}
}

func TestForcedTLSHangsUp(t *testing.T) {
	for name, say := range map[string]func(*rawClient){
		"export name":             func(c *rawClient) { c.greet(3); c.option(wire.OptExportName, "disk") },
		"export name, default":    func(c *rawClient) { c.greet(3); c.option(wire.OptExportName, "") },
		"no fixed newstyle":       func(c *rawClient) { c.greet(0); c.option(wire.OptStartTLS) },
		"abort":                   func(c *rawClient) { c.greet(3); c.option(wire.OptAbort); c.expect(wire.OptAbort, wire.RepAck) },
		"HTTP":                    func(c *rawClient) { c.get(18); c.put("GET / HTTP/1.1\r\n\r\n") },
		"TLS from the first byte": func(c *rawClient) { c.get(18); c.put("\x16\x03\x01\x00\x05hello") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newMemory(t, 1<<20)
			encrypt(t, s, TLSRequire, certificates.Options{})
			c := dial(t, listen(t, s))
			say(c)
			c.eof()
		})
	}
}

func TestTLSRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		mode TLSMode
		say  []any
		want wire.OptionReply
	}{
		"off":               {TLSOff, nil, wire.RepErrPolicy},
		"on, a payload":     {TLSOn, []any{"x"}, wire.RepErrInvalid},
		"forced, a payload": {TLSRequire, []any{"x"}, wire.RepErrInvalid},
		"forced, 100 KiB":   {TLSRequire, []any{make([]byte, 100<<10)}, wire.RepErrTooBig},
	} {
		t.Run(name, func(t *testing.T) {
			s := newMemory(t, 1<<20)
			client, _ := encrypt(t, s, tt.mode, certificates.Options{})
			c := dial(t, listen(t, s))
			c.greet(3)
			c.option(wire.OptStartTLS, tt.say...)
			c.expect(wire.OptStartTLS, tt.want)
			// It goes on as it was.
			if tt.mode == TLSRequire {
				c.startTLS(client)
			}
			c.option(wire.OptGo, str(""), uint16(0))
			c.expect(wire.OptGo, wire.RepAck)
		})
	}
}

func TestSecondStartTLS(t *testing.T) {
	for _, mode := range []TLSMode{TLSOn, TLSRequire} {
		s := newMemory(t, 1<<20)
		client, _ := encrypt(t, s, mode, certificates.Options{})
		c := dial(t, listen(t, s))
		c.greet(3)
		c.startTLS(client)
		c.option(wire.OptStartTLS)
		c.expect(wire.OptStartTLS, wire.RepErrInvalid)
		c.option(wire.OptExportName, "disk")
		c.get(10)
		c.request(0, wire.CmdRead, 1, 0, 4)
		c.must(1, 0)
	}
}

// SELECTIVETLS: before TLS the client doesn't find exports that require it, nor
// out whether they are there.
func TestSelectiveTLS(t *testing.T) {
	newServer := func(t *testing.T) (*Server, *tls.Config) {
		s := newMemory(t, 1<<20)
		secret := newMemory(t, 1<<20).Exports[0]
		secret.Name, secret.RequireTLS = "secret", true
		s.Exports = append(s.Exports, secret)
		client, _ := encrypt(t, s, TLSOn, certificates.Options{})
		return s, client
	}
	alloc := str("base:allocation")
	const (
		ack, server, info, meta = wire.RepAck, wire.RepServer, wire.RepInfo, wire.RepMetaContext
		unknown, required       = wire.RepErrUnknown, wire.RepErrTLSReqd
	)
	for name, tt := range map[string]struct {
		option       wire.Option
		payload      []any
		plain, after []wire.OptionReply
	}{
		"list":                    {wire.OptList, nil, []wire.OptionReply{server, ack}, []wire.OptionReply{server, server, ack}},
		"info":                    {wire.OptInfo, []any{str("disk"), uint16(0)}, []wire.OptionReply{info, ack}, []wire.OptionReply{info, ack}},
		"info, secret":            {wire.OptInfo, []any{str("secret"), uint16(0)}, []wire.OptionReply{required}, []wire.OptionReply{info, ack}},
		"info, no such export":    {wire.OptInfo, []any{str("nope"), uint16(0)}, []wire.OptionReply{required}, []wire.OptionReply{unknown}},
		"go, secret":              {wire.OptGo, []any{str("secret"), uint16(0)}, []wire.OptionReply{required}, []wire.OptionReply{info, ack}},
		"go, no such export":      {wire.OptGo, []any{str("nope"), uint16(0)}, []wire.OptionReply{required}, []wire.OptionReply{unknown}},
		"set contexts":            {wire.OptSetMetaContext, []any{str("disk"), uint32(1), alloc}, []wire.OptionReply{meta, ack}, []wire.OptionReply{meta, ack}},
		"set contexts, secret":    {wire.OptSetMetaContext, []any{str("secret"), uint32(1), alloc}, []wire.OptionReply{unknown}, []wire.OptionReply{meta, ack}},
		"set contexts, no export": {wire.OptSetMetaContext, []any{str("nope"), uint32(1), alloc}, []wire.OptionReply{unknown}, []wire.OptionReply{unknown}},
		"list contexts, secret":   {wire.OptListMetaContext, []any{str("secret"), uint32(0)}, []wire.OptionReply{unknown}, []wire.OptionReply{meta, ack}},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := newServer(t)
			c := dial(t, listen(t, s))
			c.greet(3)
			for i, want := range [][]wire.OptionReply{tt.plain, tt.after} {
				if i == 1 {
					c.startTLS(client)
				}
				c.option(wire.OptStructuredReply)
				c.expect(wire.OptStructuredReply, ack)
				c.option(tt.option, tt.payload...)
				if got, p := c.replies(tt.option); !slices.Equal(got, want) {
					t.Errorf("TLS %v: answered %#x (%q), not %#x", i == 1, got, p, want)
				}
			}
		})
	}
	t.Run("export name", func(t *testing.T) {
		s, client := newServer(t)
		a := listen(t, s)
		c := dial(t, a)
		c.greet(3)
		c.option(wire.OptExportName, "secret")
		c.eof()
		c = dial(t, a)
		c.greet(3)
		c.startTLS(client)
		c.option(wire.OptExportName, "secret")
		c.get(10)
		c = dial(t, a)
		c.greet(3)
		c.option(wire.OptExportName, "disk")
		c.get(10)
	})
	// The default export is the first one, whatever it requires.
	t.Run("default export", func(t *testing.T) {
		s, client := newServer(t)
		slices.Reverse(s.Exports)
		c := dial(t, listen(t, s))
		c.greet(3)
		c.option(wire.OptGo, str(""), uint16(0))
		c.expect(wire.OptGo, required)
		c.startTLS(client)
		c.option(wire.OptGo, str(""), uint16(0))
		c.expect(wire.OptGo, ack)
	})
	// TLS_REQD would send the client into a dead end where TLS can't be had.
	t.Run("off", func(t *testing.T) {
		s, _ := newServer(t)
		s.TLS.Mode = TLSOff
		c := dial(t, listen(t, s))
		c.greet(3)
		c.option(wire.OptInfo, str("secret"), uint16(0))
		c.expect(wire.OptInfo, unknown)
	})
}

// Nothing that was negotiated in plaintext counts over TLS.
func TestStartTLSForgets(t *testing.T) {
	s := newMemory(t, 1<<20)
	client, _ := encrypt(t, s, TLSOn, certificates.Options{})
	a := listen(t, s)
	before := func() *rawClient {
		c := dial(t, a)
		c.greet(3)
		c.option(wire.OptStructuredReply)
		c.expect(wire.OptStructuredReply, wire.RepAck)
		c.option(wire.OptSetMetaContext, str("disk"), uint32(1), str("base:allocation"))
		c.expect(wire.OptSetMetaContext, wire.RepAck)
		c.option(wire.OptInfo, str("disk"), uint16(0))
		c.expect(wire.OptInfo, wire.RepAck)
		c.startTLS(client)
		return c
	}
	t.Run("structured replies", func(t *testing.T) {
		c := before()
		c.option(wire.OptSetMetaContext, str("disk"), uint32(1), str("base:allocation"))
		c.expect(wire.OptSetMetaContext, wire.RepErrInvalid)
		c.option(wire.OptGo, str("disk"), uint16(0))
		c.expect(wire.OptGo, wire.RepAck)
		c.request(0, wire.CmdFlush, 1, 0, 0)
		c.must(1, 0)
	})
	t.Run("extended headers", func(t *testing.T) {
		c := dial(t, a)
		c.greet(3)
		c.option(wire.OptExtendedHeaders)
		c.expect(wire.OptExtendedHeaders, wire.RepAck)
		c.startTLS(client)
		c.option(wire.OptGo, str("disk"), uint16(0))
		c.expect(wire.OptGo, wire.RepAck)
		c.request(0, wire.CmdFlush, 1, 0, 0)
		c.must(1, 0)
	})
	t.Run("contexts", func(t *testing.T) {
		c := before()
		c.option(wire.OptStructuredReply)
		c.expect(wire.OptStructuredReply, wire.RepAck)
		c.option(wire.OptGo, str("disk"), uint16(0))
		c.expect(wire.OptGo, wire.RepAck)
		c.request(0, wire.CmdBlockStatus, 1, 0, 4096)
		c.mustFail(1, wire.EINVAL)
	})
	t.Run("flags of the client stay", func(t *testing.T) {
		c := before()
		c.option(wire.OptExportName, "disk")
		c.get(10)
		c.request(0, wire.CmdFlush, 1, 0, 0)
		c.must(1, 0)
	})
}
