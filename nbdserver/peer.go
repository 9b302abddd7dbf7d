package nbdserver

import (
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// peerTimeout is after how long without any answer from a client's kernel the
// client is taken for dead. It is longer than a switch takes to come back, and
// short enough that dead clients don't hold a drain, their place among the
// connections and their memory for the 15 minutes that TCP retransmits by
// itself.
const peerTimeout = 2 * time.Minute

// peerAttempts is how many packets must have been left without an answer
// besides, so that a lost one doesn't count: towards a client that reads nothing
// the kernel goes down to one packet in two minutes. If such a client dies, it
// is found out after minutes more.
const peerAttempts = 3

var errDead = errors.New("client is dead: its network has acknowledged nothing for a while")

// watchPeer sees to it that the connection is closed when its client has
// vanished without a word: its machine lost power, its link went down. Only the
// peers of TCP can.
//
// A client that lives, however slow, is never closed: its kernel acknowledges
// data, keepalives and probes of a closed window, even while its process is
// stopped. That is why this isn't TCP_USER_TIMEOUT: in Linux it counts the time
// that a window is closed, and would end a client that just doesn't read. And
// keepalives alone don't do: the kernel sends none while data is unacknowledged.
func (c *Conn) watchPeer() {
	tcp, ok := below(c.raw).(*net.TCPConn)
	if !ok {
		return
	}
	timeout := c.srv.peerTimeout
	if timeout == 0 {
		timeout = peerTimeout
	}
	p := peer{every: timeout / 8, timeout: timeout}
	// What makes an idle client answer. If it fails, so does the next step.
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: p.every, Interval: p.every, Count: 9})
	go func() {
		tick := time.NewTicker(p.every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-c.ctx.Done():
				return
			}
			info, err := tcpInfo(tcp)
			if err != nil {
				return // closed meanwhile
			}
			if p.isDead(info) {
				c.closeFor(errDead)
				return
			}
		}
	}()
}

// below is the connection that nc wraps, if it says so in the way of tls.Conn, and
// else nc itself.
func below(nc net.Conn) net.Conn {
	for {
		w, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nc
		}
		nc = w.NetConn()
	}
}

// tcpInfo asks the kernel how it stands with a connection.
func tcpInfo(tcp *net.TCPConn) (info *unix.TCPInfo, err error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	return info, errors.Join(cerr, err)
}

// peer judges a client by what the kernel says at each tick.
type peer struct {
	every, timeout time.Duration
	retransmits    uint32 // of the whole connection, when its last answer was seen
}

func (p *peer) isDead(i *unix.TCPInfo) bool {
	silent := time.Duration(i.Last_ack_recv) * time.Millisecond
	if silent < p.every { // there was an answer since the last tick
		p.retransmits = i.Total_retrans
	}
	// With an answer the kernel forgets its probes, which keepalives are too,
	// but not its retransmissions.
	return silent >= p.timeout && i.Total_retrans-p.retransmits+uint32(i.Probes) >= peerAttempts
}
