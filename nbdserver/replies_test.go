package nbdserver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// Forms of reply that a client may have negotiated.
const (
	simpleReplies = iota
	structuredReplies
	extendedReplies
)

// asked is a request that waits for its reply, and what has come of it.
type asked struct {
	flags          wire.CommandFlags
	cmd            wire.Command
	offset, length uint64

	data     []byte      // of a read, where content has come
	content  [][2]uint64 // offset and end of each content chunk, in their order
	holes    int         // chunks
	extents  [][2]uint64 // length and flags
	errno    wire.Errno
	why      string
	at       uint64 // the error's offset, if located
	located  bool
	statuses int // chunks
}

// replyReader reads the replies of a server as the strictest of clients: every
// rule of the specification about their form is an error when it is broken.
// Like rawClient it shares no code with the server's side of the wire.
type replyReader struct {
	io.Reader
	form     int
	contexts []uint32 // that were negotiated
	waiting  map[uint64]*asked
}

func (p *replyReader) get(n uint64) ([]byte, error) {
	if n > 32<<20+8 {
		return nil, fmt.Errorf("a payload of %d bytes", n)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(p, b)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// next reads a simple reply or a chunk. It returns the request if that was its
// end, and io.EOF if the server has closed the connection between two replies.
func (p *replyReader) next() (*asked, error) {
	var m [4]byte
	if _, err := io.ReadFull(p, m[:]); err != nil {
		return nil, err
	}
	switch magic := binary.BigEndian.Uint32(m[:]); {
	case magic == 0x67446698 && p.form != extendedReplies:
		return p.simple()
	case magic == 0x668e33ef && p.form == structuredReplies, magic == 0x6e8a278c && p.form == extendedReplies:
		return p.chunk()
	default:
		return nil, fmt.Errorf("a reply begins with %#x", magic)
	}
}

func (p *replyReader) simple() (*asked, error) {
	h, err := p.get(12)
	if err != nil {
		return nil, err
	}
	cookie := binary.BigEndian.Uint64(h[4:])
	a := p.waiting[cookie]
	if a == nil {
		return nil, fmt.Errorf("a reply to request %d, which nobody made", cookie)
	}
	if p.form != simpleReplies && a.cmd == wire.CmdRead || a.cmd == wire.CmdBlockStatus && h[3] == 0 {
		return nil, fmt.Errorf("a simple reply to %v", a.cmd)
	}
	delete(p.waiting, cookie)
	if a.errno = wire.Errno(binary.BigEndian.Uint32(h)); a.errno != 0 {
		return a, known(a.errno)
	}
	if a.cmd == wire.CmdRead {
		a.data, err = p.get(a.length)
	}
	return a, err
}

func known(e wire.Errno) error {
	if !slices.Contains([]wire.Errno{1, 5, 12, 22, 28, 75, 95, 108}, e) {
		return fmt.Errorf("error %d", uint32(e))
	}
	return nil
}

func (p *replyReader) chunk() (*asked, error) {
	size := uint64(16)
	if p.form == extendedReplies {
		size = 28
	}
	h, err := p.get(size)
	if err != nil {
		return nil, err
	}
	flags, typ, cookie := binary.BigEndian.Uint16(h), binary.BigEndian.Uint16(h[2:]), binary.BigEndian.Uint64(h[4:])
	length := uint64(binary.BigEndian.Uint32(h[12:]))
	if p.form == extendedReplies {
		length = binary.BigEndian.Uint64(h[20:])
	}
	b, err := p.get(length)
	if err != nil {
		return nil, err
	}
	a := p.waiting[cookie]
	if a == nil {
		return nil, fmt.Errorf("a chunk of a reply to request %d, which nobody made", cookie)
	}
	if p.form == extendedReplies && binary.BigEndian.Uint64(h[12:]) != a.offset {
		return nil, fmt.Errorf("the offset is %d, not the request's %d", binary.BigEndian.Uint64(h[12:]), a.offset)
	}
	if flags&^1 != 0 {
		return nil, fmt.Errorf("chunk flags %#x", flags)
	}
	if typ >= 1<<15 {
		err = a.failed(typ, b)
	} else {
		err = p.good(a, typ, b, flags == 1)
	}
	if err != nil || flags == 0 {
		return nil, err
	}
	delete(p.waiting, cookie)
	return a, a.complete(len(p.contexts))
}

func (p *replyReader) good(a *asked, typ uint16, b []byte, done bool) error {
	switch {
	case typ == 0:
		if len(b) != 0 || !done {
			return fmt.Errorf("a chunk of nothing has %d bytes, and is the last one: %v", len(b), done)
		}
		return nil
	case typ == 1 && a.cmd == wire.CmdRead && len(b) >= 9:
		return a.add(binary.BigEndian.Uint64(b), uint64(len(b)-8), b[8:])
	case typ == 2 && a.cmd == wire.CmdRead && len(b) == 12:
		a.holes++
		return a.add(binary.BigEndian.Uint64(b), uint64(binary.BigEndian.Uint32(b[8:])), nil)
	case typ == 5 && p.form == structuredReplies && a.cmd == wire.CmdBlockStatus && len(b) >= 12 && len(b)%8 == 4:
		for e := b[4:]; len(e) > 0; e = e[8:] {
			a.extents = append(a.extents, [2]uint64{uint64(binary.BigEndian.Uint32(e)), uint64(binary.BigEndian.Uint32(e[4:]))})
		}
	case typ == 6 && p.form == extendedReplies && a.cmd == wire.CmdBlockStatus && len(b) >= 24 && len(b)%16 == 8:
		if n := binary.BigEndian.Uint32(b[4:]); int(n) != (len(b)-8)/16 {
			return fmt.Errorf("%d extents are said to be in %d bytes", n, len(b))
		}
		for e := b[8:]; len(e) > 0; e = e[16:] {
			a.extents = append(a.extents, [2]uint64{binary.BigEndian.Uint64(e), binary.BigEndian.Uint64(e[8:])})
		}
	default:
		return fmt.Errorf("a chunk of type %d and %d bytes for %v", typ, len(b), a.cmd)
	}
	if a.statuses++; !slices.Contains(p.contexts, binary.BigEndian.Uint32(b)) || a.statuses > len(p.contexts) {
		return fmt.Errorf("status chunk %d is for context %d", a.statuses, binary.BigEndian.Uint32(b))
	}
	return a.checkExtents()
}

// add takes a chunk with content; nil is a hole.
func (a *asked) add(offset, n uint64, data []byte) error {
	end := offset + n
	if n == 0 || offset < a.offset || end > a.offset+a.length {
		return fmt.Errorf("content from %d to %d in the reply to a read from %d to %d", offset, end, a.offset, a.offset+a.length)
	}
	for _, c := range a.content {
		if offset < c[1] && c[0] < end {
			return fmt.Errorf("content from %d to %d and from %d to %d", c[0], c[1], offset, end)
		}
	}
	a.content = append(a.content, [2]uint64{offset, end})
	if a.flags&wire.FlagDF != 0 && len(a.content) > 1 {
		return errors.New("a second content chunk in spite of DF")
	}
	if a.data == nil {
		a.data = make([]byte, a.length)
	}
	copy(a.data[offset-a.offset:], data)
	return nil
}

func (a *asked) checkExtents() error {
	sum := uint64(0)
	for i, e := range a.extents {
		if e[0] == 0 || e[1]&^3 != 0 || sum >= a.length {
			return fmt.Errorf("extent %d of %v, for %d bytes", i, a.extents, a.length)
		}
		sum += e[0]
	}
	if a.flags&wire.FlagReqOne != 0 && (len(a.extents) != 1 || sum > a.length) {
		return fmt.Errorf("%v is not one extent of at most %d bytes", a.extents, a.length)
	}
	return nil
}

func (a *asked) failed(typ uint16, b []byte) error {
	a.located = typ == 1<<15+2
	if typ != 1<<15+1 && !a.located || len(b) < 6 {
		return fmt.Errorf("an error chunk of type %#x and %d bytes", typ, len(b))
	}
	a.errno = wire.Errno(binary.BigEndian.Uint32(b))
	n, rest := int(binary.BigEndian.Uint16(b[4:])), b[6:]
	if n > 4096 || n > len(rest) || !utf8.Valid(rest[:n]) || bytes.IndexByte(rest[:n], 0) >= 0 {
		return fmt.Errorf("an error message of %d bytes in %d: %q", n, len(rest), rest)
	}
	a.why, rest = string(rest[:n]), rest[n:]
	if !a.located && len(rest) == 0 {
		return known(a.errno)
	}
	if !a.located || len(rest) != 8 {
		return fmt.Errorf("%d bytes behind an error message", len(rest))
	}
	// A range that reaches beyond the greatest offset has no end to compare with.
	if a.at = binary.BigEndian.Uint64(rest); a.at < a.offset || a.at >= a.offset+a.length {
		return fmt.Errorf("an error at %d of %d bytes from %d on", a.at, a.length, a.offset)
	}
	return known(a.errno)
}

// complete checks a reply that has come to its end.
func (a *asked) complete(contexts int) error {
	if a.errno != 0 {
		return nil
	}
	sum := uint64(0)
	for _, c := range a.content {
		sum += c[1] - c[0]
	}
	if a.cmd == wire.CmdRead && sum != a.length {
		return fmt.Errorf("%d of %d bytes came", sum, a.length)
	}
	if a.cmd == wire.CmdBlockStatus && a.statuses != contexts {
		return fmt.Errorf("%d status chunks for %d contexts", a.statuses, contexts)
	}
	return nil
}

// The reader must see what it is there for.
func TestReplyReader(t *testing.T) {
	const ok = ""
	read, status := asked{cmd: wire.CmdRead, offset: 512, length: 1024}, asked{cmd: wire.CmdBlockStatus, length: 1024}
	df, one, flush := read, status, asked{cmd: wire.CmdFlush}
	df.flags, one.flags = wire.FlagDF, wire.FlagReqOne
	chunk := func(flags, typ uint16, cookie uint64, payload ...any) []byte {
		p := pack(payload...)
		return pack(uint32(0x668e33ef), flags, typ, cookie, uint32(len(p)), p)
	}
	long := func(flags, typ uint16, offset uint64, payload ...any) []byte {
		p := pack(payload...)
		return pack(uint32(0x6e8a278c), flags, typ, uint64(7), offset, uint64(len(p)), p)
	}
	data := func(flags uint16, offset uint64, n int) []byte { return chunk(flags, 1, 7, offset, make([]byte, n)) }
	hole := func(flags uint16, offset uint64, n uint32) []byte { return chunk(flags, 2, 7, offset, n) }
	fault := func(e uint32, message string) []byte {
		return chunk(1, 1<<15+1, 7, e, uint16(len(message)), message)
	}
	at := func(offset uint64) []byte { return chunk(1, 1<<15+2, 7, uint32(5), uint16(0), offset) }
	for _, tt := range []struct {
		name  string
		form  int
		a     asked
		bytes []byte
		want  string // a part of the error
	}{
		{"simple", simpleReplies, read, pack(uint32(0x67446698), uint32(0), uint64(7), make([]byte, 1024)), ok},
		{"simple, cut", simpleReplies, read, pack(uint32(0x67446698), uint32(0), uint64(7), make([]byte, 1023)), "unexpected EOF"},
		{"simple, to nobody", simpleReplies, read, pack(uint32(0x67446698), uint32(0), uint64(8)), "nobody"},
		{"simple, strange error", simpleReplies, read, pack(uint32(0x67446698), uint32(6), uint64(7)), "error 6"},
		{"simple to a structured read", structuredReplies, read, pack(uint32(0x67446698), uint32(5), uint64(7)), "simple reply to read"},
		{"simple to a structured flush", structuredReplies, flush, pack(uint32(0x67446698), uint32(0), uint64(7)), ok},
		{"simple to an extended flush", extendedReplies, flush, pack(uint32(0x67446698), uint32(0), uint64(7)), "begins with"},
		{"structured to a simple read", simpleReplies, read, data(1, 512, 1024), "begins with"},
		{"structured to an extended read", extendedReplies, read, data(1, 512, 1024), "begins with"},
		{"data", structuredReplies, read, data(1, 512, 1024), ok},
		{"data, to nobody", structuredReplies, read, chunk(1, 1, 8, uint64(512), make([]byte, 1024)), "nobody"},
		{"data after the last chunk", structuredReplies, read, pack(data(1, 512, 1024), data(1, 512, 1024)), "nobody"},
		{"data and a hole", structuredReplies, read, pack(hole(0, 1024, 512), data(1, 512, 512)), ok},
		{"data and nothing", structuredReplies, read, pack(data(0, 512, 1024), chunk(1, 0, 7)), ok},
		{"nothing, not the last", structuredReplies, flush, chunk(0, 0, 7), "nothing"},
		{"two parts with DF", structuredReplies, df, pack(hole(0, 1024, 512), data(1, 512, 512)), "DF"},
		{"too little", structuredReplies, read, data(1, 512, 1000), "1000 of 1024"},
		{"too much", structuredReplies, read, data(1, 512, 1025), "from 512 to 1537"},
		{"before the range", structuredReplies, read, data(1, 511, 4), "from 511"},
		{"overlapping", structuredReplies, read, pack(data(0, 512, 513), hole(1, 1024, 512)), "from 512 to 1025 and from 1024"},
		{"hole of nothing", structuredReplies, read, hole(1, 512, 0), "from 512 to 512"},
		{"data of nothing", structuredReplies, read, data(1, 512, 0), "8 bytes"},
		{"hole to a flush", structuredReplies, flush, hole(1, 512, 4), "for flush"},
		{"unknown flag", structuredReplies, flush, chunk(3, 0, 7), "flags"},
		{"unknown type", structuredReplies, flush, chunk(1, 9, 7), "type 9"},
		{"error", structuredReplies, read, fault(22, "no"), ok},
		{"error that is none", structuredReplies, read, fault(0, "no"), "error 0"},
		{"error not in UTF-8", structuredReplies, read, fault(22, "\xff"), "message"},
		{"error of 5,000 bytes", structuredReplies, read, fault(22, strings.Repeat("x", 5000)), "message"},
		{"error at an offset", structuredReplies, read, at(1535), ok},
		{"error behind the range", structuredReplies, read, at(1536), "error at 1536"},
		{"status", structuredReplies, status, chunk(1, 5, 7, uint32(1), uint32(4), uint32(3), uint32(4096), uint32(0)), ok},
		{"status without extents", structuredReplies, status, chunk(1, 5, 7, uint32(1)), "4 bytes"},
		{"status, extent of nothing", structuredReplies, status, chunk(1, 5, 7, uint32(1), uint32(0), uint32(3)), "extent 0"},
		{"status, extent beyond the range", structuredReplies, status, chunk(1, 5, 7, uint32(1), uint32(1024), uint32(3), uint32(1), uint32(0)), "extent 1"},
		{"status, wrong context", structuredReplies, status, chunk(1, 5, 7, uint32(2), uint32(4), uint32(3)), "context 2"},
		{"status, twice", structuredReplies, status, pack(chunk(0, 5, 7, uint32(1), uint32(4), uint32(3)), chunk(1, 5, 7, uint32(1), uint32(4), uint32(3))), "status chunk 2"},
		{"status, none", structuredReplies, status, chunk(1, 0, 7), "0 status chunks"},
		{"status, two extents for REQ_ONE", structuredReplies, one, chunk(1, 5, 7, uint32(1), uint32(4), uint32(3), uint32(4), uint32(0)), "one extent"},
		{"status, too long for REQ_ONE", structuredReplies, one, chunk(1, 5, 7, uint32(1), uint32(1025), uint32(3)), "one extent"},
		{"extended", extendedReplies, read, long(1, 1, 512, uint64(512), make([]byte, 1024)), ok},
		{"extended, wrong offset", extendedReplies, read, long(1, 1, 0, uint64(512), make([]byte, 1024)), "offset is 0"},
		{"extended, huge", extendedReplies, read, pack(uint32(0x6e8a278c), uint16(1), uint16(1), uint64(7), uint64(512), uint64(1<<40)), "payload"},
		{"extended status", extendedReplies, status, long(1, 6, 0, uint32(1), uint32(1), uint64(1<<40), uint64(3)), ok},
		{"extended status, wrong count", extendedReplies, status, long(1, 6, 0, uint32(1), uint32(2), uint64(4), uint64(3)), "2 extents"},
		{"extended status, short form", extendedReplies, status, long(1, 5, 0, uint32(1), uint32(4), uint32(3)), "type 5"},
		{"short status, extended form", structuredReplies, status, chunk(1, 6, 7, uint32(1), uint32(1), uint64(4), uint64(3)), "type 6"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := replyReader{bytes.NewReader(tt.bytes), tt.form, []uint32{1}, map[uint64]*asked{7: &tt.a}}
			var err error
			for err == nil {
				_, err = p.next()
			}
			if tt.want == ok && (err != io.EOF || len(p.waiting) != 0) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, not %q", err, tt.want)
			}
		})
	}
}
