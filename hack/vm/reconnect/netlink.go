package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Numbers of linux/nbd-netlink.h.
const (
	family = "nbd"
	group  = "nbd_mc_group"

	cmdReconfigure = 3
	cmdLinkDead    = 4

	attrIndex           = 1
	attrSockets         = 7
	attrDeadConnTimeout = 8
	attrSocketItem      = 1
	attrSocketFD        = 1
)

// kernel is two generic netlink sockets: what is asked on one isn't mixed up with
// what the kernel tells on the other.
type kernel struct {
	ask, news int
	id        uint16 // of the family
}

// dialKernel finds the family nbd, and listens to what the kernel tells of it.
func dialKernel() (*kernel, error) {
	k := &kernel{id: unix.GENL_ID_CTRL}
	for _, fd := range []*int{&k.ask, &k.news} {
		var err error
		if *fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC); err != nil {
			return nil, fmt.Errorf("netlink: %w", err)
		}
		if err := unix.Bind(*fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return nil, fmt.Errorf("netlink: %w", err)
		}
	}
	answer, err := k.request(unix.CTRL_CMD_GETFAMILY, attribute(unix.CTRL_ATTR_FAMILY_NAME, []byte(family+"\x00")))
	if err != nil {
		return nil, fmt.Errorf("netlink: the family %s, of the module nbd: %w", family, err)
	}
	about := attributes(answer)
	if len(about[unix.CTRL_ATTR_FAMILY_ID]) < 2 {
		return nil, fmt.Errorf("netlink: the family %s has no number", family)
	}
	k.id = binary.NativeEndian.Uint16(about[unix.CTRL_ATTR_FAMILY_ID])
	for _, g := range attributes(about[unix.CTRL_ATTR_MCAST_GROUPS]) {
		a := attributes(g)
		if id := a[unix.CTRL_ATTR_MCAST_GRP_ID]; string(bytes.TrimRight(a[unix.CTRL_ATTR_MCAST_GRP_NAME], "\x00")) == group && len(id) == 4 {
			return k, unix.SetsockoptInt(k.news, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(binary.NativeEndian.Uint32(id)))
		}
	}
	return nil, fmt.Errorf("netlink: the family %s has no group %s", family, group)
}

// reconfigure changes a device that is connected.
func (k *kernel) reconfigure(attrs ...[]byte) error {
	if _, err := k.request(cmdReconfigure, attrs...); err != nil {
		return fmt.Errorf("can't be reconfigured: %w", err)
	}
	return nil
}

// awaitDeadLink returns when the kernel tells that a device has lost a connection.
func (k *kernel) awaitDeadLink(index uint32) error {
	for {
		m, err := receive(k.news)
		if err != nil {
			return err
		}
		if len(m) < unix.GENL_HDRLEN || m[0] != cmdLinkDead {
			continue
		}
		if i := attributes(m[unix.GENL_HDRLEN:])[attrIndex]; len(i) == 4 && binary.NativeEndian.Uint32(i) == index {
			return nil
		}
	}
}

// request sends a command, and returns the attributes of the first answer.
func (k *kernel) request(cmd uint8, attrs ...[]byte) ([]byte, error) {
	body := append([]byte{cmd, 1, 0, 0}, bytes.Join(attrs, nil)...)
	m := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	m = binary.NativeEndian.AppendUint16(m, k.id)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	m = append(m, make([]byte, 8)...) // number and sender
	if err := unix.Sendto(k.ask, append(m, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var first []byte
	for {
		answer, err := receive(k.ask)
		if err != nil || answer == nil { // nil is the acknowledgement
			return first, err
		}
		if len(answer) >= unix.GENL_HDRLEN && first == nil {
			first = answer[unix.GENL_HDRLEN:]
		}
	}
}

// receive returns the body of one message: nil for an acknowledgement. Generic
// netlink sends one at a time to who asks for no list.
func receive(fd int) ([]byte, error) {
	b := make([]byte, 1<<16)
	n, _, err := unix.Recvfrom(fd, b, 0)
	for errors.Is(err, unix.EINTR) {
		n, _, err = unix.Recvfrom(fd, b, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	if n < unix.SizeofNlMsghdr+4 {
		return nil, fmt.Errorf("netlink: a message of %d bytes", n)
	}
	body := b[unix.SizeofNlMsghdr:n]
	if binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return body, nil
	}
	if errno := -int32(binary.NativeEndian.Uint32(body)); errno != 0 {
		return nil, unix.Errno(errno)
	}
	return nil, nil
}

// attribute encodes one with a number or with bytes.
func attribute(typ uint16, value any) []byte {
	body, err := binary.Append(nil, binary.NativeEndian, value)
	if err != nil {
		panic(err) // not by what a user says: values are numbers and bytes
	}
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofNlAttr+len(body)))
	b = append(binary.NativeEndian.AppendUint16(b, typ), body...)
	return append(b, make([]byte, (4-len(b)%4)%4)...)
}

// attributes decodes a list of them, by type.
func attributes(b []byte) map[uint16][]byte {
	all := map[uint16][]byte{}
	for len(b) >= unix.SizeofNlAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofNlAttr || n > len(b) {
			break
		}
		all[binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)] = b[unix.SizeofNlAttr:n]
		b = b[min((n+3)&^3, len(b)):]
	}
	return all
}
