package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
)

// address is a place to listen at.
type address struct {
	network string // "tcp" or "unix"
	addr    string // HOST:PORT or a path
}

// parseAddress reads tcp://HOST:PORT or unix:///PATH.
func parseAddress(s string) (address, error) {
	if hostport, ok := strings.CutPrefix(s, "tcp://"); ok {
		if _, _, err := net.SplitHostPort(hostport); err != nil {
			return address{}, fmt.Errorf("%q is no address: write tcp://HOST:PORT or unix:///PATH", s)
		}
		return address{"tcp", hostport}, nil
	}
	if path, ok := strings.CutPrefix(s, "unix://"); ok && strings.HasPrefix(path, "/") {
		return address{"unix", path}, nil
	}
	return address{}, fmt.Errorf("%q is no address: write tcp://HOST:PORT or unix:///PATH", s)
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
	if !errors.Is(dialErr, syscall.ECONNREFUSED) || statErr != nil || st.Mode().Type() != os.ModeSocket {
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
