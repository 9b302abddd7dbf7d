package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Sizes of fixed parts in bytes.
const (
	// ClientFlagsSize is the size of the client's answer to the greeting.
	ClientFlagsSize = 4
	// OptionHeaderSize is the size of an option before its payload.
	OptionHeaderSize = 16
)

// ErrMalformed is wrapped by every error about bytes that don't have the form
// that the specification gives them.
var ErrMalformed = errors.New("malformed message")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// AppendGreeting appends the first 18 bytes of a connection.
func AppendGreeting(b []byte, flags HandshakeFlags) []byte {
	b = binary.BigEndian.AppendUint64(b, MagicInit)
	b = binary.BigEndian.AppendUint64(b, MagicOption)
	return binary.BigEndian.AppendUint16(b, uint16(flags))
}

// ParseClientFlags reads the client's answer to the greeting. Flags that it
// doesn't know are an error: the specification has the server drop the
// connection then.
func ParseClientFlags(b [ClientFlagsSize]byte) (ClientFlags, error) {
	f := ClientFlags(binary.BigEndian.Uint32(b[:]))
	if unknown := f &^ (ClientFixedNewstyle | ClientNoZeroes); unknown != 0 {
		return 0, malformed("unknown client flags %#x", uint32(unknown))
	}
	return f, nil
}

// OptionHeader comes before the payload of an option.
type OptionHeader struct {
	Option Option
	// Length of the payload in bytes, as the client claims it.
	Length uint32
}

// ParseOptionHeader reads the header of an option.
func ParseOptionHeader(b [OptionHeaderSize]byte) (OptionHeader, error) {
	if m := binary.BigEndian.Uint64(b[:]); m != MagicOption {
		return OptionHeader{}, malformed("option magic is %#x, not %#x", m, MagicOption)
	}
	return OptionHeader{
		Option: Option(binary.BigEndian.Uint32(b[8:])),
		Length: binary.BigEndian.Uint32(b[12:]),
	}, nil
}

// AppendOptionReply appends a reply to an option. The payload is at most
// 64 KiB here: names, messages and information items.
func AppendOptionReply(b []byte, opt Option, typ OptionReply, payload []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, MagicOptionReply)
	b = binary.BigEndian.AppendUint32(b, uint32(opt))
	b = binary.BigEndian.AppendUint32(b, uint32(typ))
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// AppendExportName appends the answer to OptExportName, which has no header.
// Old clients want 124 zeroes behind it; noZeroes says that they were
// negotiated away.
func AppendExportName(b []byte, size uint64, flags TransmissionFlags, noZeroes bool) []byte {
	b = binary.BigEndian.AppendUint64(b, size)
	b = binary.BigEndian.AppendUint16(b, uint16(flags))
	if !noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	return b
}

// AppendServer appends the payload of a RepServer reply to OptList.
func AppendServer(b []byte, name, description string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(name)))
	b = append(b, name...)
	return append(b, description...)
}

// InfoRequest is the payload of OptInfo and OptGo.
type InfoRequest struct {
	// Name of the export, at most MaxString bytes of UTF-8.
	Name string
	// Infos that the client asks for, in its order.
	Infos []Info
}

// ParseInfoRequest reads the payload of OptInfo or OptGo.
func ParseInfoRequest(b []byte) (InfoRequest, error) {
	var r InfoRequest
	name, b, err := cutString(b, "export name")
	if err != nil {
		return r, err
	}
	if len(b) < 2 {
		return r, malformed("the number of information requests is missing")
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if len(b) != 2*n {
		return r, malformed("%d information requests in %d bytes", n, len(b))
	}
	r.Name = name
	for ; n > 0; n-- {
		r.Infos = append(r.Infos, Info(binary.BigEndian.Uint16(b)))
		b = b[2:]
	}
	return r, nil
}

// AppendInfoExport appends the payload of a RepInfo reply of type InfoExport.
func AppendInfoExport(b []byte, size uint64, flags TransmissionFlags) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(InfoExport))
	b = binary.BigEndian.AppendUint64(b, size)
	return binary.BigEndian.AppendUint16(b, uint16(flags))
}

// AppendInfoString appends the payload of a RepInfo reply of type InfoName or
// InfoDescription.
func AppendInfoString(b []byte, typ Info, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(typ))
	return append(b, s...)
}

// AppendInfoBlockSize appends the payload of a RepInfo reply of type
// InfoBlockSize; the sizes are in bytes.
func AppendInfoBlockSize(b []byte, minimum, preferred, maximum uint32) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(InfoBlockSize))
	b = binary.BigEndian.AppendUint32(b, minimum)
	b = binary.BigEndian.AppendUint32(b, preferred)
	return binary.BigEndian.AppendUint32(b, maximum)
}

// MetaContextRequest is the payload of OptListMetaContext and
// OptSetMetaContext.
type MetaContextRequest struct {
	// Name of the export, at most MaxString bytes of UTF-8.
	Name string
	// Queries, each at most MaxString bytes of UTF-8.
	Queries []string
}

// ParseMetaContextRequest reads the payload of OptListMetaContext or
// OptSetMetaContext.
func ParseMetaContextRequest(b []byte) (MetaContextRequest, error) {
	var r MetaContextRequest
	name, b, err := cutString(b, "export name")
	if err != nil {
		return r, err
	}
	if len(b) < 4 {
		return r, malformed("the number of queries is missing")
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	// A query takes four bytes at least, so a count beyond that is a lie that
	// needn't be believed first and found out later.
	if uint64(n)*4 > uint64(len(b)) {
		return r, malformed("%d queries in %d bytes", n, len(b))
	}
	r.Name = name
	for ; n > 0; n-- {
		var q string
		if q, b, err = cutString(b, "query"); err != nil {
			return MetaContextRequest{}, err
		}
		r.Queries = append(r.Queries, q)
	}
	if len(b) != 0 {
		return MetaContextRequest{}, malformed("%d bytes behind the last query", len(b))
	}
	return r, nil
}

// AppendMetaContext appends the payload of a RepMetaContext reply.
func AppendMetaContext(b []byte, id uint32, name string) []byte {
	b = binary.BigEndian.AppendUint32(b, id)
	return append(b, name...)
}

// ParseExportName reads the payload of OptExportName: it is the name.
func ParseExportName(b []byte) (string, error) {
	return checkString(b, "export name")
}

// cutString takes a string with its 32-bit length off the front of b.
func cutString(b []byte, what string) (string, []byte, error) {
	if len(b) < 4 {
		return "", nil, malformed("the length of the %s is missing", what)
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	if uint64(n) > uint64(len(b)) {
		return "", nil, malformed("%s of %d bytes in %d", what, n, len(b))
	}
	s, err := checkString(b[:n], what)
	return s, b[n:], err
}

// CutString makes a message a string as the protocol wants it: of at most
// MaxString bytes, and UTF-8 ("Conventions").
func CutString(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), MaxString)], "")
}

func checkString(b []byte, what string) (string, error) {
	if len(b) > MaxString {
		return "", malformed("%s of %d bytes; %d are allowed", what, len(b), MaxString)
	}
	if !utf8.Valid(b) {
		return "", malformed("%s is not UTF-8", what)
	}
	if bytes.IndexByte(b, 0) >= 0 {
		return "", malformed("%s has a NUL in it", what)
	}
	return string(b), nil
}
