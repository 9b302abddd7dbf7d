package main

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// address is a place to listen at.
type address struct {
	network string // "tcp" or "unix"
	addr    string // HOST:PORT or a path
}

func (a address) String() string { return a.network + "://" + a.addr }

// maxSocketPath is the longest path of a unix socket, in bytes: unix(7).
const maxSocketPath = 107

// parseAddress reads tcp://HOST:PORT or unix:///PATH.
func parseAddress(s string) (address, error) {
	if hostport, ok := strings.CutPrefix(s, "tcp://"); ok {
		return address{"tcp", hostport}, checkHostPort(hostport)
	}
	path, ok := strings.CutPrefix(s, "unix://")
	switch {
	case !ok || !strings.HasPrefix(path, "/"):
		return address{}, fmt.Errorf("%q is no address: write tcp://HOST:PORT or unix:///PATH", s)
	case len(path) > maxSocketPath:
		return address{}, fmt.Errorf("%q: the path of a socket has at most %d bytes: choose a shorter one", s, maxSocketPath)
	}
	return address{"unix", path}, nil
}

// checkHostPort refuses what can't be a place to listen at, on whatever machine.
func checkHostPort(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil || port == "" || strings.Contains(port, "/") {
		return fmt.Errorf("%q is no HOST:PORT", s)
	}
	if n, err := strconv.Atoi(port); err == nil && (n < 0 || n > math.MaxUint16) {
		return fmt.Errorf("%q: there is no port %d: write one up to %d, or 0 for any", s, n, math.MaxUint16)
	}
	return nil // names of services are looked up later
}

// listen opens the address. A socket file that nobody listens on any more, left
// behind by a process that was killed, is replaced.
func (a address) listen() (net.Listener, error) {
	l, err := net.Listen(a.network, a.addr)
	if err == nil || a.network != "unix" || !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	c, dialErr := net.Dial("unix", a.addr)
	if dialErr == nil {
		c.Close()
		return nil, err
	}
	st, statErr := os.Lstat(a.addr)
	if statErr == nil && st.Mode().Type() != os.ModeSocket {
		return nil, errors.New("there is something else that is no socket: remove it, or choose another path")
	}
	if !errors.Is(dialErr, syscall.ECONNREFUSED) || statErr != nil {
		return nil, err
	}
	if err := os.Remove(a.addr); err != nil {
		return nil, err
	}
	return net.Listen(a.network, a.addr)
}

// uri is the NBD URI of an export at a listener, in the syntax that libnbd,
// nbdkit and qemu share (doc/uri.md of the NBD project).
func uri(l net.Addr, export string) string {
	u := url.URL{Scheme: "nbd", Path: "/" + export}
	switch a := l.(type) {
	case *net.UnixAddr:
		// A blank is %20: to NBD clients a + is a plus sign. The host is empty,
		// but written out: nbd+unix:///NAME?socket=PATH.
		socket := strings.ReplaceAll(url.QueryEscape(a.Name), "+", "%20")
		return "nbd+unix://" + u.EscapedPath() + "?socket=" + socket
	case *net.TCPAddr:
		host := a.IP.String()
		if a.IP.IsUnspecified() {
			host = "localhost"
		}
		u.Host = net.JoinHostPort(host, fmt.Sprint(a.Port))
	}
	return u.String()
}
