package nbdserver

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPeerIsDead(t *testing.T) {
	const minute = 60_000 // ms
	info := func(silent, retransmits uint32, probes uint8) *unix.TCPInfo {
		return &unix.TCPInfo{Last_ack_recv: silent, Total_retrans: retransmits, Probes: probes}
	}
	tests := []struct {
		name  string
		ticks []*unix.TCPInfo
		want  bool // at the last tick
	}{
		{"idle, answers keepalives", []*unix.TCPInfo{info(14_000, 0, 0)}, false},
		{"idle, leaves keepalives without answer", []*unix.TCPInfo{info(14_000, 0, 0), info(2*minute, 0, 7)}, true},
		{"the same, not long enough", []*unix.TCPInfo{info(14_000, 0, 0), info(2*minute-1, 0, 7)}, false},
		{"doesn't acknowledge data", []*unix.TCPInfo{info(100, 0, 0), info(2*minute, 9, 0)}, true},
		{"doesn't acknowledge data, after a lossy life", []*unix.TCPInfo{info(100, 1000, 0), info(2*minute, 1009, 0)}, true},
		{"reads nothing, last probe answered", []*unix.TCPInfo{info(100, 0, 0), info(2*minute, 0, 0)}, false},
		{"reads nothing, one probe lost", []*unix.TCPInfo{info(100, 0, 0), info(4*minute, 0, 1)}, false},
		{"shrank its window, a lossy life", []*unix.TCPInfo{info(100, 1000, 0), info(2*minute, 1001, 0)}, false},
		{"came back", []*unix.TCPInfo{info(100, 0, 0), info(minute, 8, 0), info(100, 9, 0), info(2*minute, 10, 0)}, false},
		// The server's machine was suspended: nothing was asked.
		{"was asked nothing", []*unix.TCPInfo{info(100, 0, 0), info(10*minute, 0, 0)}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := peer{every: 15 * time.Second, timeout: 2 * time.Minute}
			for i, tick := range tt.ticks {
				if got, want := p.isDead(tick), tt.want && i == len(tt.ticks)-1; got != want {
					t.Errorf("tick %d: %v", i, got)
				}
			}
		})
	}
}

// wrapped is a connection that wraps another, and says so.
type wrapped struct{ net.Conn }

func (w wrapped) NetConn() net.Conn { return w.Conn }

type wrapping struct{ net.Listener }

func (l wrapping) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	return wrapped{wrapped{nc}}, err
}

// What a connection has to have for a dead client to be noticed, and must not
// have for a slow one to be left alone, whatever its listener was made for.
func TestPeerOptions(t *testing.T) {
	for name, wrap := range map[string]func(net.Listener) net.Listener{
		"plain":   func(l net.Listener) net.Listener { return l },
		"wrapped": func(l net.Listener) net.Listener { return wrapping{l} },
	} {
		t.Run(name, func(t *testing.T) {
			s := newMemory(t, 1<<20)
			l, err := (&net.ListenConfig{KeepAlive: -1}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go s.Serve(wrap(l))
			t.Cleanup(func() { s.Close() })
			dial(t, l.Addr()).begin(false)
			tcp := below(s.connections()[0].nc).(*net.TCPConn)
			raw, err := tcp.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			get := func(level, option int) (n int) {
				if cerr := raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), level, option) }); cerr != nil || err != nil {
					t.Fatal(cerr, err)
				}
				return n
			}
			if on, idle, interval := get(unix.SOL_SOCKET, unix.SO_KEEPALIVE), get(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE), get(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL); on != 1 || idle != 15 || interval != 15 {
				t.Errorf("keepalive %d, after %d s, every %d s", on, idle, interval)
			}
			if ms := get(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); ms != 0 {
				t.Errorf("TCP_USER_TIMEOUT is %d ms: it ends clients that don't read", ms)
			}
			if _, err := tcpInfo(tcp); err != nil {
				t.Error(err)
			}
		})
	}
}
