package interop

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/certificates/certificatestest"
)

// What features do to one another, as clients see it.

// startTLS answers the greeting on a connection and goes on over TLS, with the
// client's certificate. It may be called from any goroutine.
func (p pki) startTLS(c net.Conn) (*tls.Conn, error) {
	cert, err := tls.LoadX509KeyPair(filepath.Join(p.client, "client-cert.pem"), filepath.Join(p.client, "client-key.pem"))
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, make([]byte, 18)); err != nil {
		return nil, err
	}
	if _, err := c.Write(append(pack(uint32(3)), option(5, nil)...)); err != nil {
		return nil, err
	}
	var h [20]byte
	if _, err := io.ReadFull(c, h[:]); err != nil {
		return nil, err
	}
	if !bytes.Equal(h[12:], pack(uint32(1), uint32(0))) {
		return nil, fmt.Errorf("STARTTLS is answered %x", h)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(p.ca.PEM)
	over := tls.Client(c, &tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: []tls.Certificate{cert}})
	return over, over.Handshake()
}

// connectTLS is connect over TLS.
func (s *server) connectTLS(p pki) *rawClient {
	s.t.Helper()
	nc, err := net.Dial("tcp", s.tcp())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		s.t.Fatal(err)
	}
	over, err := p.startTLS(nc)
	if err != nil {
		s.t.Fatal(err)
	}
	c := &rawClient{s.t, over}
	c.choose()
	return c
}

// TestManyConnections: nbdcopy with 8 connections and 64 requests on each, out of
// a volume and into one, and from one into the other.
func TestManyConnections(t *testing.T) {
	const size = 64 * mib
	image := newImage(t, "disk.img", sparse(size))
	p := newPKI(t)
	for name, flags := range map[string][]string{"plain": nil, "TLS": p.flags()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := newHole(t, "target.img", size)
			s := start(t, config{volumes: []string{image, "target=" + target + ",access=read-write", "memory:64M"}, flags: flags})
			uri := func(i int) string {
				if flags == nil {
					return s.uris["tcp"][i]
				}
				return with(s.uris["tcp"][i], p.client)
			}
			nbdcopy := func(from, to string) {
				t.Helper()
				must(t, "nbdcopy", "--connections=8", "--requests=64", "--flush", from, to)
			}
			out := t.TempDir() + "/out.img"
			nbdcopy(uri(0), out)
			must(t, "cmp", image, out)
			nbdcopy(out, uri(1))
			must(t, "cmp", image, target)
			nbdcopy(uri(1), uri(2))
			nbdcopy(uri(2), out+"2")
			must(t, "cmp", image, out+"2")
		})
	}
}

// TestNbdkitOverTLS: nbdkit's nbd plugin is the client, and serves others in
// plaintext what it gets over TLS.
func TestNbdkitOverTLS(t *testing.T) {
	const size = 16 * mib
	image := newImage(t, "disk.img", sparse(size))
	transports(t, func(t *testing.T, transport string) {
		p := newPKI(t)
		target := newHole(t, "target.img", size)
		s := start(t, config{volumes: []string{image, "target=" + target + ",access=read-write"}, flags: p.flags()})
		var to []string
		if transport == "unix" {
			to = []string{"socket=" + s.socket}
		} else {
			host, port, _ := net.SplitHostPort(s.tcp())
			to = []string{"hostname=" + strings.Replace(host, "127.0.0.1", "localhost", 1), "port=" + port}
		}
		nbdkit := func(export, dir, run string) result {
			args := append([]string{"-U", "-", "nbd", "export=" + export, "tls=require", "tls-certificates=" + dir}, to...)
			return do(t, command(t, "nbdkit", append(args, "--run", run)...))
		}
		out := t.TempDir() + "/out.img"
		if r := nbdkit("disk.img", p.client, `nbdcopy "$uri" '`+out+`'`); r.code != 0 {
			t.Fatalf("%s%s", r.stdout, r.stderr)
		}
		sameFile(t, image, out)
		if r := nbdkit("target", p.client, `nbdcopy --flush '`+image+`' "$uri"`); r.code != 0 {
			t.Fatalf("%s%s", r.stdout, r.stderr)
		}
		sameFile(t, image, target)
		if r := nbdkit("disk.img", p.anonymous(t), `nbdinfo "$uri"`); r.code == 0 {
			t.Error("a client without a certificate was let in")
		}
	})
}

// TestFioWhileRatesChange: four connections that write at random while the file of
// the limits is written anew; each block is checked. fio can't be told where its
// certificates are, so over TLS nbdkit stands between.
func TestFioWhileRatesChange(t *testing.T) {
	const job = `fio --name=job --ioengine=nbd --uri="$uri" --thread --numjobs=4 --size=4M --offset_increment=16M ` +
		`--iodepth=16 --rw=randwrite --bsrange=4k-64k --verify=crc32c --verify_fatal=1 --randseed=1`
	for _, overTLS := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", overTLS), func(t *testing.T) {
			t.Parallel()
			path := t.TempDir() + "/nbd.yaml"
			write := func(content string) {
				t.Helper()
				if err := errors.Join(os.WriteFile(path+".new", []byte(content), 0o600), os.Rename(path+".new", path)); err != nil {
					t.Fatal(err)
				}
			}
			write("rate: {bytesPerSecond: 1M}")
			p := newPKI(t)
			c := config{volumes: []string{"memory:64M"}, flags: []string{"--config", path}}
			if overTLS {
				c.flags = append(c.flags, p.flags()...)
			}
			s := start(t, c)
			cmd := command(t, "/bin/sh", "-c", job)
			cmd.Env = append(os.Environ(), "uri="+s.uri("tcp"))
			if overTLS {
				_, port, _ := net.SplitHostPort(s.tcp())
				cmd = command(t, "nbdkit", "-U", "-", "nbd", "hostname=localhost", "port="+port, "tls=require", "tls-certificates="+p.client, "--run", job)
			}
			fio := make(chan result, 1)
			go func() { fio <- do(t, cmd) }()
			written := func() uint64 { return s.status().Exports[0].BytesWritten }
			inForce := func(n int) func() bool {
				return func() bool {
					return strings.Count(s.stderr.String(), "the changed configuration is in force") >= n
				}
			}
			eventually(t, "fio is connected four times and writes", func() bool { return s.status().Connections == 4 && written() > 0 })
			// Rates of each kind, and limits that come too late for fio.
			write("connectionRate: {bytesPerSecond: 2M}\nrate: {bytesPerSecond: 4M}\nvolumes: {memory: {rate: {bytesPerSecond: 3M}, maxConnections: 1}}\nmaxConnections: 1\nmaxMemory: 32M\ndeny: [all]")
			eventually(t, "other rates are in force", inForce(1))
			before := written()
			fails(t, "nbdinfo", s.uri("unix"))
			eventually(t, "fio goes on", func() bool { return written() > before })
			write("maxMemory: 64M")
			eventually(t, "the rates are gone", inForce(2))
			if r := <-fio; r.code != 0 {
				t.Fatalf("fio: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
			}
			if st := s.status().Exports[0]; st.BytesWritten != 16*mib || st.BytesRead != 16*mib {
				t.Errorf("fio has written %d bytes and read %d", st.BytesWritten, st.BytesRead)
			}
			eventually(t, "fio's connections are over", func() bool { return s.status().Connections == 0 })
			s.signal(syscall.SIGTERM)
			s.ended(0, "signal=SIGTERM")
		})
	}
}

// TestQemuReconnectsOverTLS: a server takes over from one that has disconnected
// qemu in its drain, with certificates of its own from the same authority. qemu's
// user sees nothing of it.
func TestQemuReconnectsOverTLS(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	target := newHole(t, "target.img", mib)
	socket := shortDir(t) + "/sock"
	args := config{
		volumes: []string{"disk=" + target + ",access=read-write"},
		flags:   append(p.flags(), "--listen", "unix://"+socket, "--drain-grace", "0s", "--drain-timeout", "10s", "--drain-policy", "disconnect"),
	}
	old := start(t, args)
	qemu := converse(t, "qemu-io", "--object", "tls-creds-x509,id=tls0,endpoint=client,dir="+p.client, "--image-opts",
		"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path="+socket+
			",file.export=disk,file.tls-creds=tls0,file.tls-hostname=localhost,file.reconnect-delay=60")
	qemu.say("write -P 0x11 0 4k")
	qemu.hear("wrote 4096/4096")
	old.signal(syscall.SIGTERM)
	if r := old.ended(0, "signal=SIGTERM"); r.ClientsCut != 0 {
		t.Errorf("the report is %+v", r)
	}
	qemu.say("write -f -P 0x22 4k 4k")
	p.ca.Write(t, p.server, "server", certificatestest.Server())
	s := start(t, args)
	qemu.hear("wrote 4096/4096")
	qemu.say("read -P 0x11 0 4k")
	qemu.hear("read 4096/4096")
	qemu.say("quit")
	if err := qemu.cmd.Wait(); err != nil {
		t.Errorf("qemu-io: %v %s", err, qemu.err.String())
	}
	s.signal(syscall.SIGTERM)
	s.ended(0, "signal=SIGTERM")
	must(t, "qemu-io", "-r", "-f", "raw", "-c", "read -P 0x11 0 4k", "-c", "read -P 0x22 4k 4k", target)
}

// TestTLSInCaptivity: who runs the server itself can use TLS too, if it is told
// to: by socket activation, by --stdio and by --run. nbdinfo and nbdcopy with
// [ ... ] can't be told, and learn why.
func TestTLSInCaptivity(t *testing.T) {
	p := newPKI(t)
	for name, run := range map[string]func(t *testing.T, report string) (condition string){
		"activation": func(t *testing.T, report string) string {
			nbdsh(t, "tlscaptive.py", append([]string{"activation", p.client, raceBinary, "serve", "memory:1M", "--report", report}, p.flags()...)...)
			return "signal=SIGTERM"
		},
		"stdio": func(t *testing.T, report string) string {
			nbdsh(t, "tlscaptive.py", append([]string{"stdio", p.client, raceBinary, "serve", "memory:1M", "--stdio", "--report", report}, p.flags()...)...)
			return "stdio=closed"
		},
		"run": func(t *testing.T, report string) string {
			out := t.TempDir() + "/out.img"
			cmd := command(t, raceBinary, append([]string{"serve", "memory:1M", "--report", report,
				"--run", `nbdinfo "$uri&tls-certificates=` + p.client + `" && nbdcopy "$uri&tls-certificates=` + p.client + `" '` + out + `'`}, p.flags()...)...)
			r := do(t, cmd)
			if r.code != 0 {
				t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
			}
			contains(t, r.stdout, "newstyle-fixed with TLS")
			return "run=exited"
		},
		"nbdinfo": func(t *testing.T, report string) string {
			args := append([]string{"--", "[", raceBinary, "serve", "memory:1M", "--report", report}, p.flags()...)
			r := do(t, command(t, "nbdinfo", append(args, "]")...))
			if r.code == 0 {
				t.Error("nbdinfo was let in without TLS")
			}
			contains(t, r.stderr, "Operation not supported") // what libnbd makes of NBD_REP_ERR_TLS_REQD
			return "signal=SIGTERM"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report := t.TempDir() + "/report.json"
			condition := run(t, report)
			eventually(t, "the server ends", func() bool {
				_, err := os.Stat(report)
				return err == nil
			})
			if r := readReport(t, report); r.Condition != condition || !r.Clean() || r.ClientsCut != 0 {
				t.Errorf("the report is %+v", r)
			}
		})
	}
}

// TestConditionsOnTLSClients: who fails in the TLS handshake, or gets no further,
// is no client; who comes over TLS is one.
func TestConditionsOnTLSClients(t *testing.T) {
	// stuck says STARTTLS and then nothing; strangers have no certificate.
	crowd := func(t *testing.T, s *server, p pki) {
		t.Helper()
		fails(t, "nbdinfo", with(s.uri("tcp"), p.anonymous(t)))
		nc, err := net.Dial("tcp", s.tcp())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		if _, err := nc.Write(append(pack(uint32(3)), option(5, nil)...)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(nc, make([]byte, 38)); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		flag string
		run  func(t *testing.T, s *server, p pki) (condition string, notBefore time.Time)
	}{
		"last client": {"--exit-when-last-client-leaves", func(t *testing.T, s *server, p pki) (string, time.Time) {
			crowd(t, s, p)
			a, b := s.connectTLS(p), s.connectTLS(p)
			a.disconnect()
			b.read(0, 512)
			if st := s.status(); st.Phase != "Serving" {
				t.Errorf("the status is %+v", st)
			}
			b.Close()
			return "last-client-leaves=0s", time.Time{}
		}},
		"idle": {"--exit-when-idle=5s", func(t *testing.T, s *server, p pki) (string, time.Time) {
			c := s.connectTLS(p)
			c.read(0, 512)
			crowd(t, s, p)
			left := time.Now()
			c.disconnect()
			crowd(t, s, p)
			return "idle=5s", left.Add(5 * time.Second)
		}},
		"deadline": {"--exit-when-deadline=5s", func(t *testing.T, s *server, p pki) (string, time.Time) {
			c := s.connectTLS(p)
			crowd(t, s, p)
			s.awaitRefusal()
			c.read(0, 512)
			c.disconnect()
			return "deadline=5s", time.Time{}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPKI(t)
			// Who is stuck in the handshake is closed when the grace is over.
			s := start(t, config{volumes: []string{"memory:1M"}, flags: append(p.flags(), tt.flag, "--drain-grace", "1s")})
			condition, notBefore := tt.run(t, s, p)
			if r := s.ended(0, condition); r.ClientsCut != 0 || r.StartedAt.Before(notBefore) {
				t.Errorf("the report is %+v; the drain may not begin before %v", r, notBefore)
			}
		})
	}
}

// TestReloadOfEverything: a reload looks at sizes, certificates and limits; what is
// wrong with one keeps nobody from the others, and all is in force, or told, when
// it returns.
func TestReloadOfEverything(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	path := t.TempDir() + "/nbd.yaml"
	image := newHole(t, "disk.img", mib)
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "maxConnections: 10")
	s := start(t, config{volumes: []string{image}, flags: append(p.flags(), "--config", path)})
	c := s.connectTLS(p)
	reload := []string{"ctl", "--control", "unix://" + s.ctl, "reload"}
	size := func(want uint64) {
		t.Helper()
		if got := s.status().Exports[0].Size; got != want {
			t.Errorf("the size is %d, not %d", got, want)
		}
	}
	key, err := os.ReadFile(p.server + "/server-key.pem")
	if err != nil {
		t.Fatal(err)
	}
	write(path, "maxConnections: none")
	write(p.server+"/server-key.pem", "no key")
	if err := os.Truncate(image, 2*mib); err != nil {
		t.Fatal(err)
	}
	r := do(t, command(t, raceBinary, reload...))
	if r.code != 1 {
		t.Errorf("exit code %d", r.code)
	}
	contains(t, r.stderr, "certificates: ", "limits: ", "is not a number")
	size(2 * mib)
	must(t, "nbdinfo", with(s.uri("tcp"), p.client)) // by the old ones

	write(path, "maxConnections: 1")
	write(p.server+"/server-key.pem", string(key))
	if err := os.Truncate(image, 3*mib); err != nil {
		t.Fatal(err)
	}
	must(t, raceBinary, reload...)
	size(3 * mib)
	fails(t, "nbdinfo", with(s.uri("tcp"), p.client))
	c.read(mib-512, 512)
	c.disconnect()
}

// TestDeniedOverTLS: addresses and volumes are denied over TLS as without.
func TestDeniedOverTLS(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	path := t.TempDir() + "/nbd.yaml"
	if err := os.WriteFile(path, []byte("volumes: {secret: {deny: [all]}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, config{volumes: []string{"open=memory:1M", "secret=memory:1M"}, flags: append(p.flags(), "--config", path)})
	must(t, "nbdinfo", with(s.uris["tcp"][0], p.client))
	fails(t, "nbdinfo", with(s.uris["tcp"][1], p.client))
	out := must(t, "nbdinfo", "--list", with(s.uris["tcp"][0], p.client))
	if strings.Contains(out, "secret") {
		t.Errorf("the volume is listed:\n%s", out)
	}
	r := do(t, command(t, "qemu-img", append([]string{"info"}, s.qemu("tcp", p.client, "secret", "localhost")...)...))
	contains(t, r.stderr, "the export is denied to this address")
	denied := start(t, config{volumes: []string{"memory:1M"}, flags: append(p.flags(), "--deny", "127.0.0.0/8")})
	fails(t, "nbdinfo", with(denied.uri("tcp"), p.client))
	must(t, "nbdinfo", with(denied.uri("unix"), p.client))
}

// TestDrainOfTLSClients: 20 TLS clients, held up by a rate, get all that they have
// asked for when the server is told to end; the policy decides what comes then.
func TestDrainOfTLSClients(t *testing.T) {
	const (
		clients = 20
		each    = mib
	)
	for policy, want := range map[string]uint32{"refuse": eShutdown, "disconnect": 0} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			p := newPKI(t)
			s := start(t, config{volumes: []string{"memory:1M"}, flags: append(p.flags(), "--rate", "8M,burst=64K",
				"--drain-grace", "0s", "--drain-policy", policy)})
			var all []*rawClient
			for range clients {
				c := s.connectTLS(p)
				c.put(request(0, cmdRead, 7, 0, each))
				all = append(all, c)
			}
			eventually(t, "data flows", func() bool { return s.status().Exports[0].BytesRead > 0 })
			s.signal(syscall.SIGTERM)
			s.awaitPhase("Quiescing")
			var reading sync.WaitGroup
			for _, c := range all {
				reading.Go(func() {
					buf := make([]byte, 16+each)
					if _, err := io.ReadFull(c, buf); err != nil || !bytes.Equal(buf[:16], pack(uint32(0x67446698), uint32(0), uint64(7))) {
						t.Errorf("what was in flight is answered %x, %v", buf[:16], err)
						return
					}
					if want != 0 {
						if _, err := c.Write(request(0, cmdRead, 8, 0, 512)); err != nil {
							t.Error(err)
						}
						if _, err := io.ReadFull(c, buf[:16]); err != nil || !bytes.Equal(buf[:16], pack(uint32(0x67446698), want, uint64(8))) {
							t.Errorf("the next request is answered %x, %v", buf[:16], err)
						}
						_, _ = c.Write(request(0, cmdDisc, 9, 0, 0))
					}
					if n, err := io.Copy(io.Discard, c); n != 0 || err != nil {
						t.Errorf("at the end %d bytes come, %v", n, err)
					}
					c.Close()
				})
			}
			reading.Wait()
			if r := s.ended(0, "signal=SIGTERM"); r.ClientsCut != 0 || r.BytesRead != clients*each {
				t.Errorf("the report is %+v", r)
			}
		})
	}
}
