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

	sans         []certificates.SAN      // allowSAN, from check on
	certificates *certificates.Directory // from apply on, unless TLS is off
}

func (f *tlsFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.mode, "tls", "off", "`MODE`: off; on, clients may use TLS, and must for volumes with tls=require; require, they must for everything")
	fs.StringVar(&f.directory, "tls-certificates", "", "`DIR` of server-cert.pem, server-key.pem and ca-cert.pem; looked at for each connection, so they may be replaced at any time")
	fs.BoolVar(&f.verifyPeer, "tls-verify-peer", false, "let clients start TLS only with a certificate that is signed by an authority in ca-cert.pem")
	fs.StringArrayVar(&f.allowSAN, "tls-allow-san", nil, "... and that has a subject alternative name like `PATTERN`: DNS:*.backup.example, IP:10.1.0.0/16, URI:spiffe://cluster/ns/backup/* or email:*@backup.example; repeatable")
}

// tlsModes are the values of --tls.
var tlsModes = map[string]nbdserver.TLSMode{"on": nbdserver.TLSOn, "require": nbdserver.TLSRequire}

// check refuses what is wrong on the command line, and what without TLS wouldn't
// do what it says.
func (f *tlsFlags) check(volumes []volume) error {
	if f.mode == "off" {
		if f.directory != "" || f.verifyPeer || len(f.allowSAN) > 0 {
			return errors.New("--tls-certificates, --tls-verify-peer and --tls-allow-san need --tls on or --tls require")
		}
		for _, v := range volumes {
			if v.tls {
				return fmt.Errorf("volume %q: tls=require needs --tls on or --tls require", v.name)
			}
		}
		return nil
	}
	if _, ok := tlsModes[f.mode]; !ok {
		return fmt.Errorf("--tls: %q is none of off, on, require", f.mode)
	}
	if f.directory == "" {
		return fmt.Errorf("--tls %s needs --tls-certificates DIR, with %s and %s in it", f.mode, certificates.CertFile, certificates.KeyFile)
	}
	if len(f.allowSAN) > 0 && !f.verifyPeer {
		return errors.New("--tls-allow-san needs --tls-verify-peer, without which clients aren't asked for a certificate")
	}
	for _, s := range f.allowSAN {
		p, err := certificates.ParseSAN(s)
		if err != nil {
			return fmt.Errorf("--tls-allow-san: %w", err)
		}
		f.sans = append(f.sans, p)
	}
	return nil
}

// apply loads the certificates and sets up the server, after check.
func (f *tlsFlags) apply(srv *nbdserver.Server) error {
	if f.mode == "off" {
		return nil
	}
	d, err := certificates.Open(f.directory, certificates.Options{VerifyPeer: f.verifyPeer, AllowSANs: f.sans, Log: srv.Log})
	if err != nil {
		return fmt.Errorf("--tls-certificates: %w", err)
	}
	f.certificates = d
	srv.TLS = &nbdserver.TLS{Mode: tlsModes[f.mode], Config: d.Config()}
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
