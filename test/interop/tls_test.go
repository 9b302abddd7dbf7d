package interop

import (
	"bufio"
	"crypto/x509"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/certificates/certificatestest"
)

// pki is an authority and what it has issued.
type pki struct {
	ca             *certificatestest.Authority
	server, client string // directories
}

func newPKI(t *testing.T) pki {
	t.Helper()
	dir := t.TempDir()
	p := pki{certificatestest.NewAuthority(t, "ca"), filepath.Join(dir, "server"), filepath.Join(dir, "client")}
	p.ca.Write(t, p.server, "server", certificatestest.Server())
	p.ca.Write(t, p.client, "client", x509.Certificate{DNSNames: []string{"agent.backup.example"}})
	return p
}

// flags of a server that requires TLS and verifies its clients.
func (p pki) flags() []string {
	return []string{"--tls", "require", "--tls-certificates", p.server, "--tls-verify-peer"}
}

// anonymous is a client that trusts the authority and has no certificate.
func (p pki) anonymous(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ca-cert.pem"), p.ca.PEM, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// with adds the client's certificates to an URI. libnbd has no name to compare
// with that of a server on a unix socket.
func with(uri, dir string) string {
	if strings.Contains(uri, "?") {
		return uri + "&tls-certificates=" + dir
	}
	return strings.Replace(uri, "127.0.0.1", "localhost", 1) + "?tls-certificates=" + dir
}

// qemu's options for the volume of that name.
func (s *server) qemu(transport, dir, volume, hostname string) []string {
	_, port, _ := net.SplitHostPort(s.tcp())
	opts := "driver=nbd,host=127.0.0.1,port=" + port
	if transport == "unix" {
		opts = "driver=nbd,path=" + s.socket
	}
	return []string{"--object", "tls-creds-x509,id=tls0,endpoint=client,dir=" + dir,
		"--image-opts", opts + ",tls-creds=tls0,tls-hostname=" + hostname + ",export=" + volume}
}

// TestTLS reads and writes over TLS, with libnbd and with qemu.
func TestTLS(t *testing.T) {
	const size = 64 * mib
	image := newImage(t, "disk.img", sparse(size))
	transports(t, func(t *testing.T, transport string) {
		p := newPKI(t)
		target := newHole(t, "target.img", size)
		s := start(t, config{volumes: []string{image, "target=" + target + ",access=read-write"},
			flags: append(p.flags(), "--tls-allow-san", "DNS:other.example", "--tls-allow-san", "DNS:*.backup.example")})
		for _, uri := range s.uris[transport] {
			if !strings.HasPrefix(uri, "nbds://") && !strings.HasPrefix(uri, "nbds+unix://") {
				t.Errorf("the server says that it is at %s", uri)
			}
		}
		disk, file := with(s.uris[transport][0], p.client), with(s.uris[transport][1], p.client)
		dir := t.TempDir()

		contains(t, must(t, "nbdinfo", disk), "newstyle-fixed with TLS, using structured packets", "base:allocation")
		contains(t, must(t, "nbdinfo", "--list", disk), `export="disk.img"`, `export="target"`)
		must(t, "nbdcopy", disk, dir+"/out.img")
		sameFile(t, image, dir+"/out.img")
		must(t, "nbdcopy", "--flush", image, file)
		sameFile(t, image, target)

		must(t, "qemu-img", append([]string{"convert", "-O", "raw"}, append(s.qemu(transport, p.client, "disk.img", "localhost"), dir+"/qemu.img")...)...)
		sameFile(t, image, dir+"/qemu.img")
		must(t, "qemu-io", append(s.qemu(transport, p.client, "target", "localhost"), "-c", "write -P 0x5a 1M 3M", "-c", "flush", "-c", "read -P 0x5a 1M 3M")...)
		must(t, "qemu-io", "-r", "-f", "raw", "-c", "read -P 0x5a 1M 3M", target)
		if r := do(t, command(t, "qemu-img", append([]string{"info"}, s.qemu(transport, p.client, "disk.img", "other.example")...)...)); r.code == 0 {
			t.Error("qemu-img takes the server for another host")
		}
		contains(t, s.stderr.String(), `"tls": "TLS 1.3"`, `"clientNames": ["DNS:agent.backup.example"]`)
	})
}

func TestTLSModes(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	ports := []string{p.client}
	for _, mode := range []string{"off", "on", "require"} {
		c := config{volumes: []string{"open=memory:1M"}}
		if mode != "off" {
			c.volumes = append(c.volumes, "secret=memory:1M,tls=require")
			c.flags = []string{"--tls", mode, "--tls-certificates", p.server}
		}
		_, port, _ := net.SplitHostPort(start(t, c).tcp())
		ports = append(ports, port)
	}
	nbdsh(t, "tlsmodes.py", ports...)
}

func TestTLSRefuses(t *testing.T) {
	t.Parallel()
	p, other := newPKI(t), newPKI(t)
	expired := x509.Certificate{DNSNames: []string{"agent.backup.example"}, NotAfter: time.Unix(1e9, 0)}
	issue := func(template x509.Certificate) string {
		dir := t.TempDir()
		p.ca.Write(t, dir, "client", template)
		return dir
	}
	// Trusts the server, but has a certificate of another authority.
	stranger := t.TempDir()
	other.ca.Write(t, stranger, "client", x509.Certificate{DNSNames: []string{"agent.backup.example"}})
	if err := os.WriteFile(stranger+"/ca-cert.pem", p.ca.PEM, 0o644); err != nil {
		t.Fatal(err)
	}
	s := start(t, config{volumes: []string{"disk=memory:1M"}, flags: append(p.flags(), "--tls-allow-san", "DNS:*.backup.example")})
	for _, tt := range []struct{ name, dir, log string }{
		{"the client trusts another authority", other.client, "TLS handshake failed"},
		{"the client has no certificate", p.anonymous(t), "didn't provide a certificate"},
		{"the client's certificate has expired", issue(expired), "expired"},
		{"the client's name isn't allowed", issue(x509.Certificate{DNSNames: []string{"a.b.backup.example"}}), "it has DNS:a.b.backup.example"},
		{"the client's certificate is for servers", issue(x509.Certificate{DNSNames: []string{"agent.backup.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}), "incompatible key usage"},
		{"the client's certificate is of another authority", stranger, ""},
	} {
		if r := do(t, command(t, "nbdinfo", with(s.uri("tcp"), tt.dir))); r.code == 0 {
			t.Errorf("%s: nbdinfo was let in", tt.name)
		}
		if r := do(t, command(t, "qemu-img", append([]string{"info"}, s.qemu("tcp", tt.dir, "disk", "localhost")...)...)); r.code == 0 {
			t.Errorf("%s: qemu-img was let in", tt.name)
		}
		eventually(t, tt.name+": it is in the log", func() bool { return strings.Contains(s.stderr.String(), tt.log) })
	}
	plain := strings.Replace(s.uri("tcp"), "nbds:", "nbd:", 1)
	for _, name := range []string{"nbdinfo", "qemu-img"} {
		args := []string{plain}
		if name == "qemu-img" {
			args = []string{"info", plain}
		}
		if r := do(t, command(t, name, args...)); r.code == 0 {
			t.Errorf("%s was let in without TLS", name)
		}
	}
	must(t, "nbdinfo", with(s.uri("tcp"), p.client)) // all that harmed nobody else

	off := start(t, config{volumes: []string{"disk=memory:1M"}})
	if r := do(t, command(t, "nbdinfo", with(strings.Replace(off.uri("tcp"), "nbd:", "nbds:", 1), p.client))); r.code == 0 {
		t.Error("nbdinfo has found TLS where it is off")
	}
}

func TestTLSExpiredServer(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	template := certificatestest.Server()
	template.NotAfter = time.Unix(1e9, 0)
	p.ca.Write(t, p.server, "server", template)
	s := start(t, config{volumes: []string{"disk=memory:1M"}, flags: p.flags()})
	r := do(t, command(t, "nbdinfo", with(s.uri("tcp"), p.client)))
	if r.code == 0 {
		t.Error("nbdinfo takes a certificate that has expired")
	}
	contains(t, r.stderr, "certificate")
	contains(t, s.stderr.String(), "the server's certificate is not valid now")
}

// TestTLSRotation replaces the certificates, and their authority, as Kubernetes
// does: by a link that points elsewhere.
func TestTLSRotation(t *testing.T) {
	transports(t, func(t *testing.T, transport string) {
		before, after := newPKI(t), newPKI(t)
		dir := t.TempDir()
		for _, name := range []string{"ca-cert.pem", "server-cert.pem", "server-key.pem"} {
			if err := os.Symlink("..data/"+name, dir+"/"+name); err != nil {
				t.Fatal(err)
			}
		}
		swap := func(to string) {
			t.Helper()
			if err := os.Symlink(to, dir+"/..data_tmp"); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(dir+"/..data_tmp", dir+"/..data"); err != nil {
				t.Fatal(err)
			}
		}
		swap(before.server)
		image := newImage(t, "disk.img", []extent{{0, 16 * mib, true}})
		http := freePort(t)
		s := start(t, config{volumes: []string{image, "memory:1M"},
			flags: []string{"--tls", "require", "--tls-verify-peer", "--tls-certificates", dir, "--http", http}})
		disk, memory := s.uris[transport][0], s.uris[transport][1]

		// A copy that is held up by whoever takes the data, and a session.
		copying := command(t, "nbdcopy", with(disk, before.client), "-")
		data, err := copying.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		script, err := filepath.Abs("testdata/tlsrotate.py")
		if err != nil {
			t.Fatal(err)
		}
		session := command(t, python, script, with(memory, before.client), with(memory, after.client))
		session.Stderr = os.Stderr
		stdin, err := session.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := session.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := copying.Start(); err != nil {
			t.Fatal(err)
		}
		if err := session.Start(); err != nil {
			t.Fatal(err)
		}
		first := make([]byte, mib)
		if _, err := io.ReadFull(data, first); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
			t.Fatalf("%q, %v", line, err)
		}
		swap(after.server)
		_, page := ask(t, "GET", "http://"+http+"/metrics")
		contains(t, page, `nbd_server_certificate_expiry_timestamp_seconds{certificate="server"} 3.786912e+09`, `{certificate="ca"}`)
		if _, err := io.WriteString(stdin, "\n"); err != nil {
			t.Fatal(err)
		}
		if err := session.Wait(); err != nil {
			t.Errorf("the session: %v", err)
		}
		h := hash(t, io.MultiReader(strings.NewReader(string(first)), data))
		if err := copying.Wait(); err != nil || h != fileHash(t, image) {
			t.Errorf("the copy: %v", err)
		}
		s.signal(syscall.SIGTERM)
		s.ended(0, "signal=SIGTERM")
	})
}

// TestTLSReload: who asks for it is told what is wrong with the new files, and
// those from before stay in use.
func TestTLSReload(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	s := start(t, config{volumes: []string{"disk=memory:1M"}, flags: p.flags()})
	reload := []string{"ctl", "--control", "unix://" + s.ctl, "reload"}
	must(t, raceBinary, reload...)
	key, err := os.ReadFile(p.server + "/server-key.pem")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.server+"/server-key.pem", key[:len(key)/2], 0o644); err != nil {
		t.Fatal(err)
	}
	r := do(t, command(t, raceBinary, reload...))
	if r.code != 1 {
		t.Errorf("exit code %d of a reload of half a key", r.code)
	}
	contains(t, r.stderr, "certificates", "server-key.pem")
	must(t, "nbdinfo", with(s.uri("tcp"), p.client))
	if err := os.WriteFile(p.server+"/server-key.pem", key, 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, raceBinary, reload...)
}

// TestTLSRun: a command that the server runs is told to use TLS.
func TestTLSRun(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	contains(t, must(t, raceBinary, append(append([]string{"serve"}, p.flags()...), "--run", `nbdinfo "$uri&tls-certificates=`+p.client+`"`, "memory:1M")...),
		"newstyle-fixed with TLS")
}

// TestTLSUnreadableKey: the key belongs to another user.
func TestTLSUnreadableKey(t *testing.T) {
	dir := shortDir(t)
	p := newPKI(t)
	p.ca.Write(t, dir, "server", certificatestest.Server())
	key := filepath.Join(dir, "server-key.pem")
	if err := os.Chmod(key, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, raceBinary, "serve", "memory:1M", "--listen", "tcp://127.0.0.1:0", "--tls", "on", "--tls-certificates", dir)
	cmd.Dir = "/"
	user := os.Geteuid()
	if user == 0 { // to whom permissions mean nothing
		user = 65534
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	refused(t, cmd, []string{"--tls-certificates", key, "permission denied", "user " + strconv.Itoa(user)})
}
