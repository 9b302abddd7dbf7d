package main

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"github.com/nbdexport/nbdexport/nbdserver"
	"github.com/nbdexport/nbdexport/nbdserver/certificates"
)

// tlsFlags are the flags of "nbdserver serve" about TLS, as they were written.
type tlsFlags struct {
	mode       string
	directory  string
	verifyPeer bool
	allowSAN   []string

	certificates *certificates.Directory // from apply on, unless TLS is off
}

func (f *tlsFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.mode, "tls", "off", "off, on: clients may use TLS, and must for volumes with tls=require, or require: they must for everything")
	fs.StringVar(&f.directory, "tls-certificates", "", "directory of server-cert.pem, server-key.pem and ca-cert.pem; looked at for each connection, so they may be replaced at any time")
	fs.BoolVar(&f.verifyPeer, "tls-verify-peer", false, "let clients start TLS only with a certificate that is signed by an authority in ca-cert.pem")
	fs.StringArrayVar(&f.allowSAN, "tls-allow-san", nil, "and that has a subject alternative name like this: DNS:*.backup.example, IP:10.1.0.0/16, URI:spiffe://cluster/ns/backup/* or email:*@backup.example; repeatable")
}

// apply checks what was written and sets up the server.
func (f *tlsFlags) apply(srv *nbdserver.Server) error {
	var mode nbdserver.TLSMode
	switch f.mode {
	case "off":
		return f.checkOff(srv)
	case "on":
		mode = nbdserver.TLSOn
	case "require":
		mode = nbdserver.TLSRequire
	default:
		return fmt.Errorf("--tls: %q is none of off, on, require", f.mode)
	}
	if f.directory == "" {
		return fmt.Errorf("--tls %s needs --tls-certificates DIR, with %s and %s in it", f.mode, certificates.CertFile, certificates.KeyFile)
	}
	if len(f.allowSAN) > 0 && !f.verifyPeer {
		return errors.New("--tls-allow-san needs --tls-verify-peer, without which clients aren't asked for a certificate")
	}
	o := certificates.Options{VerifyPeer: f.verifyPeer, Log: srv.Log}
	for _, s := range f.allowSAN {
		p, err := certificates.ParseSAN(s)
		if err != nil {
			return fmt.Errorf("--tls-allow-san: %w", err)
		}
		o.AllowSANs = append(o.AllowSANs, p)
	}
	d, err := certificates.Open(f.directory, o)
	if err != nil {
		return fmt.Errorf("--tls-certificates: %w", err)
	}
	f.certificates = d
	srv.TLS = &nbdserver.TLS{Mode: mode, Config: d.Config()}
	return nil
}

// checkOff refuses what without TLS wouldn't do what it says.
func (f *tlsFlags) checkOff(srv *nbdserver.Server) error {
	if f.directory != "" || f.verifyPeer || len(f.allowSAN) > 0 {
		return errors.New("--tls-certificates, --tls-verify-peer and --tls-allow-san need --tls on or --tls require")
	}
	for _, e := range srv.Exports {
		if e.RequireTLS {
			return fmt.Errorf("volume %q: tls=require needs --tls on or --tls require", e.Name)
		}
	}
	return nil
}

// reload loads the certificates now. On an error those from before stay in use.
func (f *tlsFlags) reload() error {
	if f.certificates == nil {
		return nil
	}
	return f.certificates.Reload()
}

// uri is uri for an export of a server with these flags: of the scheme nbds if
// clients must use TLS, which has them do so.
func (f *tlsFlags) uri(l net.Addr, e *nbdserver.Export) string {
	u := uri(l, e.Name)
	if f.mode == "require" || e.RequireTLS {
		return "nbds" + strings.TrimPrefix(u, "nbd")
	}
	return u
}

var descExpiry = prometheus.NewDesc("nbd_server_certificate_expiry_timestamp_seconds",
	"Unix time at which a certificate expires: the server's, and the first one of the authorities that sign clients'.", []string{"certificate"}, nil)

// Describe implements prometheus.Collector.
func (f *tlsFlags) Describe(ch chan<- *prometheus.Desc) { ch <- descExpiry }

// Collect implements prometheus.Collector. Without TLS there is nothing.
func (f *tlsFlags) Collect(ch chan<- prometheus.Metric) {
	if f.certificates == nil {
		return
	}
	server, ca := f.certificates.NotAfter()
	ch <- prometheus.MustNewConstMetric(descExpiry, prometheus.GaugeValue, float64(server.Unix()), "server")
	if !ca.IsZero() {
		ch <- prometheus.MustNewConstMetric(descExpiry, prometheus.GaugeValue, float64(ca.Unix()), "ca")
	}
}
