package nbdserver

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestAccess(t *testing.T) {
	v4, v6, mapped := tcpPeer("192.0.2.7"), tcpPeer("2001:db8::7"), tcpPeer("::ffff:192.0.2.7")
	local, user, pipe := tcpPeer("fe80::1%lo"), client{unix: true}, client{}
	everybody := []client{v4, v6, mapped, local, user, pipe}
	tests := []struct {
		name        string
		allow, deny []string
		permitted   []client
	}{
		{"empty", nil, nil, everybody},
		{"allow alone keeps nobody out", []string{"192.0.2.7"}, nil, everybody},
		{"deny all", nil, []string{"all"}, nil},
		{"deny any", nil, []string{"any"}, nil},
		{"allow goes first", []string{"all"}, []string{"all"}, everybody},
		{"allow some, deny the rest", []string{"192.0.2.0/24", "2001:db8::/32"}, []string{"all"}, []client{v4, v6, mapped}},
		{"an address", []string{"192.0.2.7"}, []string{"all"}, []client{v4, mapped}},
		{"another address", []string{"192.0.2.8"}, []string{"all"}, nil},
		{"a mapped address", []string{"::ffff:192.0.2.7"}, []string{"all"}, []client{v4, mapped}},
		{"a mapped range", []string{"::ffff:192.0.2.0/120"}, []string{"all"}, []client{v4, mapped}},
		{"host bits in a range don't count", []string{"192.0.2.99/24"}, []string{"all"}, []client{v4, mapped}},
		{"an IPv6 address", nil, []string{"2001:db8::7"}, []client{v4, mapped, local, user, pipe}},
		{"an IPv6 address in full", nil, []string{"2001:0db8:0:0:0:0:0:7"}, []client{v4, mapped, local, user, pipe}},
		{"zones don't count", []string{"fe80::1%eth0"}, []string{"all"}, []client{local}},
		{"all of IPv4", []string{"0.0.0.0/0"}, []string{"all"}, []client{v4, mapped}},
		{"all of IPv6 has no IPv4 in it", []string{"::/0"}, []string{"all"}, []client{v6, local}},
		{"allipv4", nil, []string{"allipv4"}, []client{v6, local, user, pipe}},
		{"anyipv4", []string{"anyipv4"}, []string{"any"}, []client{v4, mapped}},
		{"allipv6", nil, []string{"allipv6"}, []client{v4, mapped, user, pipe}},
		{"anyipv6", []string{"anyipv6"}, []string{"any"}, []client{v6, local}},
		{"allunix", nil, []string{"allunix"}, []client{v4, v6, mapped, local, pipe}},
		{"anyunix", []string{"anyunix"}, []string{"any"}, []client{user}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := newAccess(tt.allow, tt.deny)
			if err != nil {
				t.Fatal(err)
			}
			want := map[client]bool{}
			for _, p := range tt.permitted {
				want[p] = true
			}
			for _, p := range everybody {
				if got := a.permits(p); got != want[p] {
					t.Errorf("%+v: permitted is %v", p, got)
				}
			}
		})
	}
}

// tcpPeer is the peer of a connection from an address.
func tcpPeer(addr string) client {
	return clientOf(remote{addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 1))})
}

// remote is a connection of which only the far end is known.
type remote struct {
	net.Conn
	addr net.Addr
}

func (r remote) RemoteAddr() net.Addr { return r.addr }

func TestAccessRefuses(t *testing.T) {
	for _, s := range []string{
		"", "localhost", "192.0.2", "192.0.2.256", "192.0.2.0/33", "192.0.2.0/", "/24", "192.0.2.0/24/8", "2001:db8::/129",
		"192.0.2.1,192.0.2.2", " 192.0.2.1", "All", "uid:0", "192.0.2.1:10809", "010.0.0.1",
	} {
		for field, err := range map[string]error{
			"allow": errorOf(newAccess([]string{"all", s}, nil)),
			"deny":  errorOf(newAccess(nil, []string{s})),
		} {
			if err == nil || !strings.Contains(err.Error(), field+`: "`+s+`" is no address`) {
				t.Errorf("%s %q: %v", field, s, err)
			}
		}
	}
}

func errorOf(_ access, err error) error { return err }

// Over a unix socket, a client is a user.
func TestPeerOfUnixSocket(t *testing.T) {
	t.Chdir(t.TempDir()) // its path may be too long for a socket
	l, err := net.Listen("unix", "s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for _, nc := range []net.Conn{nc, wrapped{nc}} {
		if got, want := clientOf(nc), (client{unix: true, uid: uint32(os.Getuid())}); got != want {
			t.Errorf("%T: %+v, not %+v", nc, got, want)
		}
	}
}
