package nbdserver

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/nbdexport/nbdexport/nbdserver/certificates"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// FuzzReplies plays a client that asks for anything at all, but waits for the
// reply to an option before it sends the next one, and gives each request a
// cookie of its own. So it can hold the server to every rule about replies: it
// reads all of them, in the form that it negotiated, and every request that came
// whole must be answered.
func FuzzReplies(f *testing.F) {
	seedSessions(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) { playReplies(t, b, nil, nil) })
	})
}

// FuzzRepliesOverTLS is FuzzReplies for what a client says over TLS.
func FuzzRepliesOverTLS(f *testing.F) {
	seedSessions(f)
	var with Server
	client, _ := encrypt(f, &with, TLSRequire, certificates.Options{})
	// The handshake is not what is looked at: in its quickest form.
	client.InsecureSkipVerify = true
	client.Certificates = nil
	client.CurvePreferences = []tls.CurveID{tls.X25519}
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) { playReplies(t, b, with.TLS, client) })
	})
}

func playReplies(t *testing.T, b []byte, with *TLS, client *tls.Config) {
	s := newMemory(t, 1<<20)
	s.TLS = with
	record(s).info.FastZero = true
	for _, page := range []uint64{0, 1, 5, 31} {
		if err := s.Exports[0].Backend.WriteAt(t.Context(), []byte("data"), page<<15); err != nil {
			t.Fatal(err)
		}
	}
	p := fuzzPeer{rawClient: connect(t, s), in: b, out: make(chan []byte, maxOptions+maxPerExport+2)}
	flags, err := p.greeting(client)
	go func() {
		for b := range p.out {
			p.Write(b) // as the server takes it: it may have heard enough before
		}
	}()
	if err == nil {
		err = p.run(flags)
	}
	if err != nil && err != io.EOF {
		t.Error(err)
	}
	close(p.out)
	p.Close()
	synctest.Wait()
	s.Close()
	nothingLeft(t, s)
	if n := s.panics.Load(); n != 0 {
		t.Errorf("%d panics", n)
	}
}

// fuzzPeer is the client of FuzzReplies. Its methods return io.EOF where the
// server has closed the connection between two replies.
type fuzzPeer struct {
	*rawClient
	in       []byte // what isn't sent yet
	out      chan []byte
	form     int
	contexts []uint32
}

// take returns the next n bytes of the input, or what there is.
func (p *fuzzPeer) take(n uint64) []byte {
	n = min(n, uint64(len(p.in)))
	b := p.in[:n]
	p.in = p.in[n:]
	return b
}

// read reads n bytes from the server, which has longer for it than it waits for
// anything in a negotiation.
func (p *fuzzPeer) read(n uint32) ([]byte, error) {
	if n > 1<<16 {
		return nil, fmt.Errorf("a message of %d bytes", n)
	}
	p.SetReadDeadline(time.Now().Add(time.Minute))
	b := make([]byte, n)
	_, err := io.ReadFull(p, b)
	return b, err
}

// greeting answers the greeting, starts TLS if there is a configuration for it,
// and returns the client's flags.
func (p *fuzzPeer) greeting(config *tls.Config) (flags []byte, err error) {
	if _, err := p.read(18); err != nil {
		return nil, err
	}
	flags = p.take(4)
	if config == nil {
		p.out <- flags
		return flags, nil
	}
	flags = pack(uint32(3)) // or there is no TLS
	p.put(flags)
	p.startTLS(config)
	return flags, nil
}

func (p *fuzzPeer) run(flags []byte) error {
	for len(p.in) >= 16 {
		header := p.take(16)
		opt := wire.Option(binary.BigEndian.Uint32(header[8:]))
		p.out <- pack(header, p.take(uint64(binary.BigEndian.Uint32(header[12:]))))
		if opt == wire.OptExportName {
			n := uint32(10 + 124)
			if flags[3]&2 != 0 {
				n = 10
			}
			if _, err := p.read(n); err != nil {
				return err
			}
			if p.form == extendedReplies {
				return errors.New("entered by EXPORT_NAME with extended headers")
			}
			return p.transmission()
		}
		ok, err := p.option(opt)
		if err != nil {
			return err
		}
		if ok && opt == wire.OptGo {
			return p.transmission()
		}
	}
	return nil
}

// option reads the replies to an option, and tells whether it succeeded.
func (p *fuzzPeer) option(opt wire.Option) (bool, error) {
	if opt == wire.OptSetMetaContext {
		p.contexts = nil
	}
	var contexts []uint32
	export := false
	for {
		h, err := p.read(20)
		if err != nil {
			return false, err
		}
		if m, o := binary.BigEndian.Uint64(h), wire.Option(binary.BigEndian.Uint32(h[8:])); m != 0x3e889045565a9 || o != opt {
			return false, fmt.Errorf("the reply to %v begins with %#x and is to %v", opt, m, o)
		}
		typ := wire.OptionReply(binary.BigEndian.Uint32(h[12:]))
		b, err := p.read(binary.BigEndian.Uint32(h[16:]))
		if err != nil {
			return false, fmt.Errorf("in a reply to %v: %w", opt, err)
		}
		info := opt == wire.OptInfo || opt == wire.OptGo
		context := opt == wire.OptListMetaContext || opt == wire.OptSetMetaContext
		switch {
		case typ >= 1<<31 && len(b) <= 4096 && utf8.Valid(b):
			return false, nil
		case typ == wire.RepAck && len(b) == 0:
			switch opt {
			case wire.OptStructuredReply:
				p.form = structuredReplies
			case wire.OptExtendedHeaders:
				p.form = extendedReplies
			case wire.OptSetMetaContext:
				p.contexts = contexts
			}
			if info && !export {
				return false, fmt.Errorf("%v succeeded without NBD_INFO_EXPORT", opt)
			}
			return true, nil
		case typ == wire.RepServer && opt == wire.OptList && len(b) >= 4 && uint64(binary.BigEndian.Uint32(b)) <= uint64(len(b)-4):
		case typ == wire.RepInfo && info && infoLength(b):
			export = export || binary.BigEndian.Uint16(b) == 0
		case typ == wire.RepMetaContext && context && len(b) > 4 && string(b[4:]) == "base:allocation":
			contexts = append(contexts, binary.BigEndian.Uint32(b))
		default:
			return false, fmt.Errorf("the reply to %v is of type %#x: %q", opt, uint32(typ), b)
		}
	}
}

// infoLength tells whether an item of information has the length of its type.
func infoLength(b []byte) bool {
	if len(b) < 2 {
		return false
	}
	switch binary.BigEndian.Uint16(b) {
	case 0:
		return len(b) == 12
	case 1, 2:
		return true
	case 3:
		return len(b) == 14
	}
	return false
}

// transmission sends the rest of the input, as requests as far as it is that,
// and awaits the replies.
func (p *fuzzPeer) transmission() error {
	magic, size := uint32(0x25609513), uint64(28)
	if p.form == extendedReplies {
		magic, size = 0x21e41c71, 32
	}
	waiting := map[uint64]*asked{}
	var all []byte
	for cookie := uint64(1); ; cookie++ {
		if uint64(len(p.in)) < size || binary.BigEndian.Uint32(p.in) != magic {
			break
		}
		all = append(all, p.take(size)...)
		h := all[uint64(len(all))-size:]
		binary.BigEndian.PutUint64(h[8:], cookie)
		a := asked{
			flags: wire.CommandFlags(binary.BigEndian.Uint16(h[4:])), cmd: wire.Command(binary.BigEndian.Uint16(h[6:])),
			offset: binary.BigEndian.Uint64(h[16:]), length: uint64(binary.BigEndian.Uint32(h[24:])),
		}
		payload := uint64(0)
		if size == 32 {
			a.length = binary.BigEndian.Uint64(h[24:])
			if a.flags&(1<<5) != 0 {
				payload = a.length
			}
		} else if a.cmd == wire.CmdWrite {
			payload = a.length
		}
		if a.cmd == wire.CmdDisc || uint64(len(p.in)) < payload {
			break
		}
		if a.cmd == wire.CmdBlockStatus && payload >= 8 {
			a.length = binary.BigEndian.Uint64(p.in)
		}
		all = append(all, p.take(payload)...)
		waiting[cookie] = &a
	}
	p.out <- append(all, p.in...)
	r := replyReader{p, p.form, p.contexts, waiting}
	for {
		p.SetReadDeadline(time.Now().Add(time.Minute))
		_, err := r.next()
		if errors.Is(err, os.ErrDeadlineExceeded) || err == io.EOF {
			if len(waiting) > 0 {
				return fmt.Errorf("%d requests are not answered: %w", len(waiting), err)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}
