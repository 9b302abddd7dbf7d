package interop

import (
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
)

func (s *server) awaitPhase(phase string) {
	s.t.Helper()
	eventually(s.t, "the server is "+phase, func() bool { return s.status().Phase == phase })
}

// TestLibnbdIsRefused: libnbd passes ESHUTDOWN on, and can leave in peace.
func TestLibnbdIsRefused(t *testing.T) {
	transports(t, func(t *testing.T, transport string) {
		s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--drain-grace", "0s"}})
		sh := converseWithPython(t, "driver.py")
		sh.run("h = nbd.NBD()", `h.add_meta_context("base:allocation")`,
			fmt.Sprintf("h.connect_uri(%q)", s.uri(transport)), "h.pread(512, 0)")
		s.signal(syscall.SIGTERM)
		s.awaitPhase("Quiescing")
		for _, line := range []string{
			"h.pread(512, 0)",
			"h.pwrite(bytearray(512), 0)",
			"h.pwrite(bytearray(512), 0, flags=nbd.CMD_FLAG_FUA)",
			"h.pwrite(bytearray(1 << 20), 0)",
			"h.flush()",
			"h.trim(512, 0)",
			"h.zero(512, 0)",
			"h.block_status(512, 0, lambda *a: 0)",
		} {
			if got := sh.fails(line); !strings.HasPrefix(got, "ESHUTDOWN") {
				t.Errorf("%s: %s", line, got)
			}
		}
		sh.run("assert h.aio_is_ready()", "h.shutdown()")
		if r := s.ended(0, "signal=SIGTERM"); r.ClientsCut != 0 {
			t.Errorf("the report is %+v", r)
		}
	})
}

// TestQemuIsRefused: qemu makes an I/O error of ESHUTDOWN.
func TestQemuIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--drain-grace", "0s"}})
	qemu := converse(t, "qemu-io", "-f", "raw", s.uri("unix"))
	qemu.say("read 0 512")
	qemu.hear("read 512/512 bytes")
	s.signal(syscall.SIGTERM)
	s.awaitPhase("Quiescing")
	for _, c := range []string{"read 0 512", "write 0 512", "write -f 0 512", "write -z 0 512", "discard 0 512"} {
		qemu.say(c)
		if got := qemu.hear("failed", "512/512"); !strings.HasSuffix(got, "failed: Cannot send after transport endpoint shutdown") {
			t.Errorf("%s: %s", c, got)
		}
	}
	qemu.say("quit")
	if r := s.ended(0, "signal=SIGTERM"); r.ClientsCut != 0 {
		t.Errorf("the report is %+v", r)
	}
}

// TestLibnbdNegotiates: the drain finds libnbd between two options.
func TestLibnbdNegotiates(t *testing.T) {
	transports(t, func(t *testing.T, transport string) {
		s := start(t, config{volumes: []string{"memory:1M"}})
		sh := converseWithPython(t, "driver.py")
		sh.run("h = nbd.NBD()", "h.set_opt_mode(True)", fmt.Sprintf("h.connect_uri(%q)", s.uri(transport)),
			"h.opt_list(lambda *a: 0)")
		s.signal(syscall.SIGTERM)
		s.awaitPhase("Draining")
		for line, want := range map[string]string{
			"h.opt_list(lambda *a: 0)": "server replied with error", // all that libnbd makes of it
			"h.opt_info()":             "ESHUTDOWN",
			"h.opt_go()":               "ESHUTDOWN",
		} {
			if got := sh.fails(line); !strings.Contains(got, want) {
				t.Errorf("%s: %s", line, got)
			}
		}
		sh.run("h.opt_abort()")
		if r := s.ended(0, "signal=SIGTERM"); r.ClientsCut != 0 {
			t.Errorf("the report is %+v", r)
		}
	})
}

// delayed listens on a socket and connects each client to another one, but holds
// back what the first client says until it is released. It returns its path, a
// channel that tells of the first byte, and the release.
func delayed(t *testing.T, to string) (path string, first <-chan struct{}, release func()) {
	t.Helper()
	path = shortDir(t) + "/sock"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	arrived, gate := make(chan struct{}), make(chan struct{})
	go func() {
		client, err := l.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		server, err := net.Dial("unix", to)
		if err != nil {
			return
		}
		defer server.Close()
		go io.Copy(client, server)
		b := make([]byte, 4) // the client's flags go through
		if _, err := io.ReadFull(client, b); err != nil {
			return
		}
		server.Write(b)
		if _, err := io.ReadFull(client, b); err != nil {
			return
		}
		close(arrived)
		<-gate
		server.Write(b)
		io.Copy(server, client)
	}()
	return path, arrived, func() { close(gate) }
}

// TestQemuNegotiates: the drain overtakes qemu's first option.
func TestQemuNegotiates(t *testing.T) {
	t.Parallel()
	s := start(t, config{volumes: []string{"disk=memory:1M"}})
	path, first, release := delayed(t, s.socket)
	done := make(chan result)
	cmd := command(t, "qemu-img", "info", "nbd+unix:///disk?socket="+path)
	go func() { done <- do(t, cmd) }()
	<-first
	s.signal(syscall.SIGTERM)
	s.awaitPhase("Draining")
	release()
	r := <-done
	if r.code == 0 {
		t.Error("qemu-img was let in")
	}
	contains(t, r.stderr, "Server shutting down")
	s.ended(0, "signal=SIGTERM")
}

// TestDrainTimeout: clients that stay are cut off, and see it.
func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--drain-timeout", "1s"}})
	sh := converseWithPython(t, "driver.py")
	sh.run("all = [nbd.NBD() for i in range(3)]",
		fmt.Sprintf("for h in all: h.connect_uri(%q)", s.uri("tcp")),
		"for h in all: h.pread(512, 0)")
	s.signal(syscall.SIGTERM)
	if r := s.ended(3, "signal=SIGTERM"); r.ClientsCut != 3 {
		t.Errorf("the report is %+v", r)
	}
	sh.run("for h in all: h.poll(-1)",
		"for h in all: assert h.aio_is_closed() or h.aio_is_dead()")
}

// TestLibnbdIsDisconnected: with the policy disconnect an idle client sees an
// orderly end.
func TestLibnbdIsDisconnected(t *testing.T) {
	transports(t, func(t *testing.T, transport string) {
		s := start(t, config{
			volumes: []string{"memory:1M"},
			flags:   []string{"--drain-grace", "0s", "--drain-policy", "disconnect"},
		})
		sh := converseWithPython(t, "driver.py")
		sh.run("h = nbd.NBD()", fmt.Sprintf("h.connect_uri(%q)", s.uri(transport)), "h.pread(512, 0)")
		s.signal(syscall.SIGTERM)
		sh.run("h.poll(-1)", "assert h.aio_is_closed()")
		if r := s.ended(0, "signal=SIGTERM"); r.ClientsCut != 0 {
			t.Errorf("the report is %+v", r)
		}
	})
}

// TestQemuReconnects: a server takes over from one that has disconnected qemu in
// its drain. qemu's user sees nothing of it.
func TestQemuReconnects(t *testing.T) {
	t.Parallel()
	target := newHole(t, "target.img", mib)
	socket := shortDir(t) + "/sock"
	args := config{
		volumes: []string{"disk=" + target + ",access=read-write"},
		flags:   []string{"--listen", "unix://" + socket, "--drain-grace", "0s", "--drain-timeout", "10s", "--drain-policy", "disconnect"},
	}
	old := start(t, args)
	qemu := converse(t, "qemu-io", "--image-opts", "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path="+
		socket+",file.export=disk,file.reconnect-delay=60")
	qemu.say("write -P 0x11 0 4k")
	qemu.hear("wrote 4096/4096")
	old.signal(syscall.SIGTERM)
	if r := old.ended(0, "signal=SIGTERM"); r.ClientsCut != 0 {
		t.Errorf("the report is %+v", r)
	}
	qemu.say("write -P 0x22 4k 4k")
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

// TestCrowd: a hundred connections write when the signal comes.
func TestCrowd(t *testing.T) {
	const clients = 100
	tests := []struct {
		name    string
		flags   []string
		signals int
		errors  string // that clients see of their writes
		code    int
		cut     int
	}{
		{"refuse", []string{"--drain-grace", "0s", "--drain-policy", "refuse"}, 1, "ESHUTDOWN", 0, 0},
		{"disconnect", []string{"--drain-grace", "0s", "--drain-policy", "disconnect"}, 1, "", 0, 0},
		{"second signal", nil, 2, "", 3, clients},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target := newHole(t, "target.img", clients*mib)
			s := start(t, config{volumes: []string{target + ",access=read-write"}, flags: tt.flags})
			crowd := converseWithPython(t, "crowd.py", s.uri("unix"), target, itoa(clients))
			crowd.hear("going")
			s.signal(syscall.SIGTERM)
			if tt.signals == 2 {
				s.awaitRefusal()
				s.signal(syscall.SIGTERM)
			}
			over := crowd.hear("over")
			if tt.errors != "" && over != "over "+tt.errors {
				t.Errorf("errors of the clients: %s", over)
			}
			if r := s.ended(tt.code, "signal=SIGTERM"); r.ClientsCut != tt.cut {
				t.Errorf("the report is %+v", r)
			}
			crowd.say("look")
			t.Log(crowd.hear("found"))
		})
	}
}
