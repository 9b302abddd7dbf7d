//go:build root

// This test makes network namespaces: it needs root, and the command ip of
// iproute2.

package nbdserver

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// Clients that vanish from the network without a word are found out, whatever the
// server waits for, and only they: one that just reads nothing for much longer
// stays.
func TestDeadPeers(t *testing.T) {
	server, client := network(t)
	core, logs := observer.New(zap.InfoLevel)
	s := newMemory(t, 64<<20)
	s.Log = zap.New(core)
	s.peerTimeout = 2 * time.Second
	g := gate(s)
	g.readGate = make(chan struct{})

	slow := dial(t, listen(t, s))
	slow.begin(false)
	const replies, size = 4, 8 << 20
	for i := range replies {
		slow.request(0, wire.CmdRead, uint64(i), 0, size)
	}

	var l net.Listener
	within(t, server, func() (err error) {
		l, err = net.Listen("tcp4", "192.0.2.1:0")
		return err
	})
	go s.Serve(l)
	enter := func() *rawClient {
		var nc net.Conn
		within(t, client, func() (err error) {
			nc, err = net.Dial("tcp4", l.Addr().String())
			return err
		})
		t.Cleanup(func() { nc.Close() })
		c := &rawClient{t, nc}
		c.begin(false)
		return c
	}
	enter() // is idle
	enter().request(0, wire.CmdWrite, 1, 0, 1<<20, make([]byte, 1<<19))
	enter().request(0, wire.CmdRead, 1, 0, 512) // the reply comes when it has vanished
	for g.reading.Load() != replies+1 {
		time.Sleep(time.Millisecond)
	}
	// As when there is a switch between the two, the server's end stays up.
	ip(t, "-n", client, "address", "flush", "dev", "eth0")
	cut := time.Now()
	close(g.readGate)

	for len(s.connections()) != 1 {
		if time.Since(cut) > time.Minute {
			t.Fatalf("%d connections are left after %v", len(s.connections()), time.Since(cut))
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("found out after %v", time.Since(cut))
	if n := logs.FilterField(zap.String("ended", errDead.Error())).Len(); n != 3 {
		t.Errorf("%d connections have ended because the client is dead: %v", n, logs.All())
	}
	if data := readBack(t, s); data != [8]byte{} {
		t.Errorf("half a write was applied: %q", data)
	}

	time.Sleep(time.Until(cut.Add(3 * s.peerTimeout)))
	for range replies {
		slow.simple()
		if _, err := io.CopyN(io.Discard, slow, size); err != nil {
			t.Fatalf("the client that reads nothing for a while was closed: %v", err)
		}
	}
}

// network makes two network namespaces, 192.0.2.1 and 192.0.2.2, with a link
// between them, and returns their names.
func network(t *testing.T) (one, two string) {
	t.Helper()
	for i, name := range []*string{&one, &two} {
		*name = fmt.Sprintf("nbdserver-%d-%d", os.Getpid(), i+1)
		ip(t, "netns", "add", *name)
		t.Cleanup(func() { ip(t, "netns", "del", *name) })
	}
	ip(t, "-n", one, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", two)
	for i, name := range []string{one, two} {
		ip(t, "-n", name, "address", "add", fmt.Sprintf("192.0.2.%d/24", i+1), "dev", "eth0")
		ip(t, "-n", name, "link", "set", "eth0", "up")
	}
	return one, two
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %q: %v\n%s", args, err, out)
	}
}

// within does something in a network namespace; sockets stay in it.
func within(t *testing.T, name string, do func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and end it, as nothing else may run on it
		done <- func() error {
			f, err := os.Open("/run/netns/" + name)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return do()
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
