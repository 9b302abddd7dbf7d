package nbdserver

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// actor is a client in a script. It notes what it sees.
type actor struct {
	conn   *socket
	over   io.ReadWriter // conn, or TLS over it
	toSend chan []byte   // never waits for the server, as a script doesn't
	rest   []byte        // of what was sent in half
	cookie uint64

	mu       sync.Mutex
	lingers  bool // doesn't close its side when the server closes its own
	vanished bool
	ended    bool // saw the end of the connection
	seen     []string
	asked    map[uint64]request // by cookie
}

type request struct {
	verb   string
	length int // of the data that comes with a good answer
}

// newActor lets conn, which is nil if nobody listened, be used.
func newActor(conn *socket, config *tls.Config) *actor {
	a := &actor{conn: conn, over: conn, toSend: make(chan []byte, 1000), asked: map[uint64]request{}}
	if conn == nil {
		a.ended = true
		a.see("refused")
		return a
	}
	ready := make(chan struct{})
	go func() {
		<-ready
		for b := range a.toSend {
			if _, err := a.over.Write(b); err != nil {
				a.see("can't send")
				return
			}
		}
	}()
	go func() {
		err := a.greet(config)
		close(ready)
		if err == nil {
			err = a.listen()
		}
		switch {
		case errors.Is(err, syscall.ECONNRESET):
			a.see("reset")
		case errors.Is(err, io.EOF):
			a.see("closed")
		case errors.Is(err, io.ErrUnexpectedEOF):
			a.see("closed in the middle of an answer")
		default:
			a.see(err.Error())
		}
		a.mu.Lock()
		a.ended = true
		lingers := a.lingers
		a.mu.Unlock()
		if !lingers {
			conn.Close()
		}
	}()
	return a
}

func (a *actor) see(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.vanished {
		a.seen = append(a.seen, what)
	}
}

// take returns what was seen since the last time.
func (a *actor) take() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := strings.Join(a.seen, ", ")
	a.seen = nil
	return s
}

func (a *actor) get(n int) ([]byte, error) {
	b := make([]byte, n)
	n, err := io.ReadFull(a.over, b)
	if n == 0 && err == io.ErrUnexpectedEOF { // of TLS, that is: the end wasn't announced
		err = io.EOF
	}
	return b, err
}

// greet answers the greeting, and starts TLS if there is a configuration for it.
func (a *actor) greet(config *tls.Config) error {
	if _, err := a.get(18); err != nil {
		return err
	}
	a.see("greeted")
	if config == nil {
		_, err := a.conn.Write(pack(uint32(3)))
		return err
	}
	if _, err := a.conn.Write(pack(uint32(3), "IHAVEOPT", uint32(wire.OptStartTLS), uint32(0))); err != nil {
		return err
	}
	if _, err := a.get(20); err != nil {
		return err
	}
	t := tls.Client(a.conn, config)
	if err := t.Handshake(); err != nil {
		return err
	}
	a.over = t
	return nil
}

// listen notes what the server says until it closes the connection.
func (a *actor) listen() error {
	for chosen := false; !chosen; {
		h, err := a.get(8)
		if err != nil {
			return err
		}
		if binary.BigEndian.Uint64(h) != 0x3e889045565a9 { // the size, for an export by name
			if _, err := a.get(2); err != nil {
				return err
			}
			a.see("connected")
			break
		}
		if h, err = a.get(12); err != nil {
			return err
		}
		if _, err := a.get(int(binary.BigEndian.Uint32(h[8:]))); err != nil {
			return err
		}
		opt, typ := wire.Option(binary.BigEndian.Uint32(h)), wire.OptionReply(binary.BigEndian.Uint32(h[4:]))
		switch {
		case opt == wire.OptGo && typ == wire.RepAck:
			chosen = true
			a.see("connected")
		case typ == wire.RepAck:
			a.see(optionName(opt) + " ACK")
		case typ == wire.RepErrShutdown:
			a.see(optionName(opt) + " ERR_SHUTDOWN")
		case typ >= 1<<31:
			a.see(fmt.Sprintf("%s %#x", optionName(opt), uint32(typ)))
		}
	}
	for {
		h, err := a.get(16)
		if err != nil {
			return err
		}
		if binary.BigEndian.Uint32(h) != 0x67446698 {
			return errors.New("nonsense")
		}
		e, cookie := wire.Errno(binary.BigEndian.Uint32(h[4:])), binary.BigEndian.Uint64(h[8:])
		a.mu.Lock()
		r, ok := a.asked[cookie]
		delete(a.asked, cookie)
		a.mu.Unlock()
		switch {
		case !ok:
			return errors.New("an answer to nothing")
		case e != 0:
			a.see(r.verb + " " + e.String())
			continue
		case r.length > 0:
			if _, err := a.get(r.length); err != nil {
				return err
			}
		}
		a.see(r.verb + " ok")
	}
}

func optionName(o wire.Option) string { return strings.TrimPrefix(o.String(), "NBD_OPT_") }

// options that a script can send by name, with their payload.
var scriptOptions = map[string]struct {
	option  wire.Option
	payload []byte
}{
	"EXPORT_NAME":       {wire.OptExportName, nil},
	"ABORT":             {wire.OptAbort, nil},
	"LIST":              {wire.OptList, nil},
	"INFO":              {wire.OptInfo, pack(str(""), uint16(0))},
	"GO":                {wire.OptGo, pack(str(""), uint16(0))},
	"STRUCTURED_REPLY":  {wire.OptStructuredReply, nil},
	"LIST_META_CONTEXT": {wire.OptListMetaContext, pack(str(""), uint32(0))},
	"UNKNOWN":           {4711, nil},
}

func optionBytes(name string) []byte {
	o := scriptOptions[name]
	return pack("IHAVEOPT", uint32(o.option), uint32(len(o.payload)), o.payload)
}

// request sends a request, or its first half.
func (a *actor) request(verb string, cmd wire.Command, flags wire.CommandFlags, length uint32, half bool) {
	var data []byte
	if cmd == wire.CmdWrite {
		data = make([]byte, length)
	}
	a.cookie++
	r := request{verb: verb}
	if cmd == wire.CmdRead {
		r.length = int(length)
	}
	a.mu.Lock()
	a.asked[a.cookie] = r
	a.mu.Unlock()
	a.send(pack(uint32(0x25609513), uint16(flags), uint16(cmd), a.cookie, uint64(0), length, data), half)
}

func (a *actor) send(b []byte, half bool) {
	if a.conn == nil {
		a.see("isn't connected")
		return
	}
	if half {
		b, a.rest = b[:len(b)/2], b[len(b)/2:]
	}
	a.toSend <- b
}

// open tells whether the server has left the connection open, for all that the
// client can know: one that doesn't read sees no end.
func (a *actor) open() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.ended && !a.conn.in.isHeld()
}

// vanish closes the connection without a word.
func (a *actor) vanish() {
	a.mu.Lock()
	a.vanished, a.ended = true, true
	a.mu.Unlock()
	if a.conn != nil {
		a.conn.Close()
	}
}

// do does a step, which is said in the words behind the actor's name.
func (a *actor) do(words string) bool {
	verb, what, _ := strings.Cut(words, " ")
	length := uint32(512)
	if what == "8M" {
		length = 8 << 20
	}
	switch {
	case words == "sends half a read":
		a.request("read", wire.CmdRead, 0, length, true)
	case words == "sends half a write":
		a.request("write", wire.CmdWrite, 0, length, true)
	case words == "sends half a GO":
		a.send(optionBytes("GO"), true)
	case words == "sends the rest":
		a.send(a.rest, false)
	case words == "writes with FUA":
		a.request("write", wire.CmdWrite, wire.FlagFUA, length, false)
	case words == "stops reading":
		a.conn.in.hold(true)
	case words == "reads on":
		a.conn.in.hold(false)
	case words == "will linger":
		a.mu.Lock()
		a.lingers = true
		a.mu.Unlock()
	case words == "vanishes":
		a.vanish()
	case verb == "asks" && scriptOptions[what].option != 0:
		a.send(optionBytes(what), false)
	case what != "" && length == 512:
		return false
	case verb == "reads":
		a.request("read", wire.CmdRead, 0, length, false)
	case verb == "writes":
		a.request("write", wire.CmdWrite, 0, length, false)
	case verb == "flushes":
		a.request("flush", wire.CmdFlush, 0, 0, false)
	case verb == "disconnects":
		a.request("disconnect", wire.CmdDisc, 0, 0, false)
	default:
		return false
	}
	return true
}
