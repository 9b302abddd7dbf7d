package nbdserver

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// client is who is at the other end of a connection: an IP address, or a user of
// this machine. It is comparable. The zero value is somebody else, as at the end
// of a pipe.
type client struct {
	addr netip.Addr // without a zone, never IPv4 in IPv6
	unix bool
	uid  uint32 // of the process that connected; 0 is root
}

func clientOf(nc net.Conn) client {
	switch a := nc.RemoteAddr().(type) {
	case *net.TCPAddr:
		return client{addr: a.AddrPort().Addr().Unmap().WithZone("")}
	case *net.UnixAddr:
		return client{unix: true, uid: uidOf(nc)}
	}
	return client{}
}

// uidOf is the user at the other end of a unix socket, or nobody if the kernel
// doesn't tell.
func uidOf(nc net.Conn) uint32 {
	const nobody = 65534
	sc, ok := below(nc).(syscall.Conn)
	if !ok {
		return nobody
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nobody
	}
	uid := uint32(nobody)
	_ = raw.Control(func(fd uintptr) { // it fails if the socket is closed already
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			uid = cred.Uid
		}
	})
	return uid
}

// access is an allow list and a deny list. The zero value permits everybody.
type access struct{ allow, deny []clientSet }

// permits tells whether p may do what the lists are about: nbdkit-ip-filter(1),
// "Allow and deny lists".
func (a access) permits(p client) bool { return contain(a.allow, p) || !contain(a.deny, p) }

func contain(list []clientSet, p client) bool {
	for _, l := range list {
		if l(p) {
			return true
		}
	}
	return false
}

// clientSet is a set of clients.
type clientSet func(client) bool

func newAccess(allow, deny []string) (a access, err error) {
	if a.allow, err = parseClients("allow", allow); err == nil {
		a.deny, err = parseClients("deny", deny)
	}
	return a, err
}

func parseClients(field string, list []string) ([]clientSet, error) {
	var all []clientSet
	for _, s := range list {
		p, ok := parseClient(s)
		if !ok {
			return nil, fmt.Errorf("%s: %q is no address: write one like 192.0.2.1 or 2001:db8::1, a range like 192.0.2.0/24, or all, allipv4, allipv6, allunix", field, s)
		}
		all = append(all, p)
	}
	return all, nil
}

// parseClient reads an element of a list. The words are those of
// nbdkit-ip-filter(1); its vsock, pid, uid and gid are not among them.
func parseClient(s string) (clientSet, bool) {
	switch s {
	case "all", "any":
		return func(client) bool { return true }, true
	case "allipv4", "anyipv4":
		return func(p client) bool { return p.addr.Is4() }, true
	case "allipv6", "anyipv6":
		return func(p client) bool { return p.addr.Is6() }, true
	case "allunix", "anyunix":
		return func(p client) bool { return p.unix }, true
	}
	var prefix netip.Prefix
	if strings.Contains(s, "/") {
		var err error
		if prefix, err = netip.ParsePrefix(s); err != nil {
			return nil, false
		}
	} else {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return nil, false
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen()) // without the zone
	}
	// A range that lies in ::ffff:0:0/96 is one of IPv4 addresses.
	if a := prefix.Addr(); a.Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(a.Unmap(), prefix.Bits()-96)
	}
	return func(p client) bool { return prefix.Contains(p.addr) }, true
}
