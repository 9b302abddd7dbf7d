package interop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// attach is a connection in the transmission phase. Unlike connect it may be
// used by any goroutine.
func attach(s *server, transport, export string, structured bool) (net.Conn, error) {
	addr := s.tcp()
	if transport == "unix" {
		addr = s.socket
	}
	c, err := net.Dial(transport, addr)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(c.SetDeadline(time.Now().Add(patience)), chooseExport(c, export, structured)); err != nil {
		c.Close()
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(2 * patience))
}

func chooseExport(c net.Conn, export string, structured bool) error {
	if _, err := io.ReadFull(c, make([]byte, 18)); err != nil {
		return err
	}
	hello := pack(uint32(3))
	if structured {
		hello = append(hello, option(8, nil)...)
	}
	hello = append(hello, option(7, pack(uint32(len(export)), []byte(export), uint16(0)))...)
	if _, err := c.Write(hello); err != nil {
		return err
	}
	for {
		var h [20]byte
		if _, err := io.ReadFull(c, h[:]); err != nil {
			return err
		}
		opt, typ := binary.BigEndian.Uint32(h[8:]), binary.BigEndian.Uint32(h[12:])
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(h[16:]))); err != nil {
			return err
		}
		if typ >= 1<<31 {
			return fmt.Errorf("option %d is answered %#x", opt, typ)
		}
		if opt == 7 && typ == 1 {
			return nil
		}
	}
}

// readReply reads a whole reply, simple or structured. wants tells where a
// request reads and how much; what doesn't answer exactly that is an error, and
// so is a reply that says that the request failed.
func readReply(r io.Reader, wants func(cookie uint64) (offset uint64, length int)) (cookie uint64, data []byte, err error) {
	for first := true; ; first = false {
		var h [20]byte
		if _, err := io.ReadFull(r, h[:16]); err != nil {
			return 0, nil, err
		}
		magic, c := binary.BigEndian.Uint32(h[:]), binary.BigEndian.Uint64(h[8:])
		if !first && c != cookie {
			return 0, nil, fmt.Errorf("a chunk for request %d among those for %d", c, cookie)
		}
		cookie = c
		offset, length := wants(cookie)
		if first {
			data = make([]byte, length)
		}
		if magic == 0x67446698 && first {
			if errno := binary.BigEndian.Uint32(h[4:]); errno != 0 {
				return cookie, nil, fmt.Errorf("request %d failed with error %d", cookie, errno)
			}
			_, err := io.ReadFull(r, data)
			return cookie, data, err
		}
		if magic != 0x668e33ef {
			return 0, nil, fmt.Errorf("a reply begins with %#x", magic)
		}
		if _, err := io.ReadFull(r, h[16:]); err != nil {
			return 0, nil, err
		}
		payload := make([]byte, binary.BigEndian.Uint32(h[16:]))
		if _, err := io.ReadFull(r, payload); err != nil {
			return 0, nil, err
		}
		switch typ := binary.BigEndian.Uint16(h[6:]); {
		case typ == 0: // no content
		case typ == 1 && len(payload) > 8: // data; what isn't sent stays zero, as a hole (2) does
			at := binary.BigEndian.Uint64(payload) - offset
			if n := uint64(len(payload) - 8); at > uint64(length) || n > uint64(length)-at {
				return cookie, nil, fmt.Errorf("request %d: %d bytes at %d weren't asked for", cookie, n, at)
			}
			copy(data[at:], payload[8:])
		case typ == 2:
		default:
			return cookie, nil, fmt.Errorf("request %d: a chunk of type %#x, %q", cookie, typ, payload)
		}
		if binary.BigEndian.Uint16(h[4:])&1 != 0 {
			return cookie, data, nil
		}
	}
}

// expect reads the reply to a request.
func expect(t *testing.T, c net.Conn, cookie, offset uint64, length int) []byte {
	t.Helper()
	got, data, err := readReply(c, func(uint64) (uint64, int) { return offset, length })
	if err != nil || got != cookie {
		t.Fatalf("request %d is answered: cookie %d, %v", cookie, got, err)
	}
	return data
}
