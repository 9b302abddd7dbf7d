package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nbdexport/nbdexport/nbdserver"
	"github.com/nbdexport/nbdexport/nbdserver/certificates/certificatestest"
)

func TestTLSFlags(t *testing.T) {
	dir := t.TempDir()
	certificatestest.NewAuthority(t, "ca").Write(t, dir, "server", certificatestest.Server())
	for name, f := range map[string]tlsFlags{
		"off":     {mode: "off"},
		"on":      {mode: "on", directory: dir},
		"require": {mode: "require", directory: dir, verifyPeer: true, allowSAN: []string{"DNS:*", "IP:::1"}},
	} {
		srv := &nbdserver.Server{}
		if err := errors.Join(f.check(nil), f.apply(srv)); err != nil || (srv.TLS == nil) != (name == "off") {
			t.Errorf("%s: %+v, %v", name, srv.TLS, err)
		}
		if err := f.reload(); err != nil {
			t.Errorf("%s: reload: %v", name, err)
		}
	}

	empty, noCA, torn := t.TempDir(), t.TempDir(), t.TempDir()
	for _, d := range []string{noCA, torn} {
		certificatestest.NewAuthority(t, "ca").Write(t, d, "server", certificatestest.Server())
	}
	if err := os.Remove(filepath.Join(noCA, "ca-cert.pem")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "server-key.pem"), filepath.Join(torn, "key")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(torn, "key"), filepath.Join(torn, "server-key.pem")); err != nil {
		t.Fatal(err)
	}
	secret := []volume{{name: "secret", tls: true}}
	for _, tt := range []struct {
		f       tlsFlags
		volumes []volume
		want    []string
	}{
		{tlsFlags{mode: "yes"}, nil, []string{"--tls:", `"yes"`}},
		{tlsFlags{mode: "on"}, nil, []string{"--tls on", "--tls-certificates DIR"}},
		{tlsFlags{mode: "off", directory: dir}, nil, []string{"--tls-certificates", "--tls on"}},
		{tlsFlags{mode: "off", verifyPeer: true}, nil, []string{"--tls-verify-peer", "--tls on"}},
		{tlsFlags{mode: "off", allowSAN: []string{"DNS:a"}}, nil, []string{"--tls-allow-san", "--tls on"}},
		{tlsFlags{mode: "off"}, secret, []string{`volume "secret"`, "--tls on"}},
		{tlsFlags{mode: "on", directory: dir, allowSAN: []string{"DNS:a"}}, nil, []string{"--tls-allow-san", "--tls-verify-peer"}},
		{tlsFlags{mode: "on", directory: dir, verifyPeer: true, allowSAN: []string{"a"}}, nil, []string{"--tls-allow-san", `"a"`}},
		{tlsFlags{mode: "require", directory: empty}, nil, []string{"--tls-certificates", empty + "/server-cert.pem", "server-key.pem", "ca-cert.pem"}},
		{tlsFlags{mode: "require", directory: noCA, verifyPeer: true}, nil, []string{"--tls-certificates", noCA + "/ca-cert.pem"}},
		{tlsFlags{mode: "require", directory: torn}, nil, []string{"--tls-certificates", torn, "server-key.pem", "does not match"}},
	} {
		err := tt.f.check(tt.volumes)
		if err == nil {
			err = tt.f.apply(&nbdserver.Server{})
		}
		if err == nil {
			t.Errorf("%+v is accepted", tt.f)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %q is not in %v", tt.f, want, err)
			}
		}
	}
}

func TestTLSURI(t *testing.T) {
	tcp, unix := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 10809}, &net.UnixAddr{Net: "unix", Name: "/nbd"}
	plain, secret := &nbdserver.Export{Name: "nbd"}, &nbdserver.Export{Name: "nbd", RequireTLS: true}
	for _, tt := range []struct {
		mode string
		addr net.Addr
		e    *nbdserver.Export
		want string
	}{
		{"off", tcp, plain, "nbd://127.0.0.1:10809/nbd"},
		{"on", tcp, plain, "nbd://127.0.0.1:10809/nbd"},
		{"on", tcp, secret, "nbds://127.0.0.1:10809/nbd"},
		{"require", tcp, plain, "nbds://127.0.0.1:10809/nbd"},
		{"on", unix, plain, "nbd+unix:///nbd?socket=%2Fnbd"},
		{"require", unix, plain, "nbds+unix:///nbd?socket=%2Fnbd"},
	} {
		if got := (&tlsFlags{mode: tt.mode}).uri(tt.addr, tt.e); got != tt.want {
			t.Errorf("--tls %s: %s; want %s", tt.mode, got, tt.want)
		}
	}
}

func TestCertificateMetrics(t *testing.T) {
	dir := t.TempDir()
	ca, template := certificatestest.NewAuthority(t, "ca"), certificatestest.Server()
	write := func(notAfter int64) {
		template.NotAfter = time.Unix(notAfter, 0)
		ca.Write(t, dir, "server", template)
	}
	f := &tlsFlags{mode: "on", directory: dir}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(f)
	guide, err := os.ReadFile("../../docs/nbdserver.md")
	if err != nil {
		t.Fatal(err)
	}
	expiry := func() map[string]float64 {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]float64{}
		for _, family := range families {
			if line := fmt.Sprintf("\n| `%s` | gauge | `certificate` | %s |\n", family.GetName(), family.GetHelp()); !strings.Contains(string(guide), line) {
				t.Errorf("docs/nbdserver.md lacks the line%s", line)
			}
			for _, m := range family.Metric {
				values[m.Label[0].GetValue()] = m.Gauge.GetValue()
			}
		}
		return values
	}
	if v := expiry(); len(v) != 0 {
		t.Errorf("without TLS: %v", v)
	}
	write(3e9)
	if err := f.apply(&nbdserver.Server{}); err != nil {
		t.Fatal(err)
	}
	end := float64(time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC).Unix())
	if v := expiry(); v["server"] != 3e9 || v["ca"] != end {
		t.Errorf("expiry %v", v)
	}
	// Nobody has connected since, and yet it is the new one that counts.
	write(3.5e9)
	if v := expiry(); v["server"] != 3.5e9 {
		t.Errorf("expiry after a change %v", v)
	}
}
