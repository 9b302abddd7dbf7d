package wire

import "encoding/binary"

// Sizes of fixed parts in bytes.
const (
	// RequestSize is the size of a request before its payload.
	RequestSize = 28
	// ExtendedRequestSize is the same with extended headers.
	ExtendedRequestSize = 32
	// SimpleReplySize is the size of a simple reply before its payload.
	SimpleReplySize = 16
)

// Request is what a client asks in the transmission phase ("Request message").
// PayloadLength bytes follow it on the wire.
type Request struct {
	// Extended says that the request came with extended headers.
	Extended bool

	Flags   CommandFlags
	Command Command
	// Cookie is the client's name for the request, repeated in the reply.
	Cookie uint64
	// Offset and Length in bytes. Length has 32 bits on the wire, and 64 with
	// extended headers. With FlagPayloadLen it is the length of the payload,
	// which for a write is the same thing.
	Offset uint64
	Length uint64
}

// ParseRequest reads a request. A wrong magic is an error after which nothing
// more of the connection can be understood.
func ParseRequest(b [RequestSize]byte) (Request, error) {
	if m := binary.BigEndian.Uint32(b[:]); m != MagicRequest {
		return Request{}, malformed("request magic is %#x, not %#x", m, MagicRequest)
	}
	return Request{
		Flags:   CommandFlags(binary.BigEndian.Uint16(b[4:])),
		Command: Command(binary.BigEndian.Uint16(b[6:])),
		Cookie:  binary.BigEndian.Uint64(b[8:]),
		Offset:  binary.BigEndian.Uint64(b[16:]),
		Length:  uint64(binary.BigEndian.Uint32(b[24:])),
	}, nil
}

// IsExtendedRequest tells whether a request begins with the magic of extended
// headers. b has at least RequestSize bytes.
func IsExtendedRequest(b []byte) bool {
	return binary.BigEndian.Uint32(b) == MagicExtendedRequest
}

// ParseExtendedRequest reads a request with extended headers. A wrong magic is
// an error after which nothing more of the connection can be understood.
func ParseExtendedRequest(b [ExtendedRequestSize]byte) (Request, error) {
	if m := binary.BigEndian.Uint32(b[:]); m != MagicExtendedRequest {
		return Request{}, malformed("request magic is %#x, not %#x", m, MagicExtendedRequest)
	}
	return Request{
		Extended: true,
		Flags:    CommandFlags(binary.BigEndian.Uint16(b[4:])),
		Command:  Command(binary.BigEndian.Uint16(b[6:])),
		Cookie:   binary.BigEndian.Uint64(b[8:]),
		Offset:   binary.BigEndian.Uint64(b[16:]),
		Length:   binary.BigEndian.Uint64(b[24:]),
	}, nil
}

// PayloadLength is the number of bytes that follow the request on the wire, as
// the client claims it. With extended headers a flag tells whether there are
// any, whatever the command is.
func (r Request) PayloadLength() uint64 {
	if r.Extended && r.Flags&FlagPayloadLen != 0 || !r.Extended && r.Command == CmdWrite {
		return r.Length
	}
	return 0
}

// ParseBlockStatusPayload reads the payload of a block status request: the
// length in bytes that it asks about, and the numbers of the contexts that it
// is interested in ("NBD_CMD_BLOCK_STATUS"). Those who call it bound b.
func ParseBlockStatusPayload(b []byte) (length uint64, contexts []uint32, err error) {
	if len(b) < 8 || len(b)%4 != 0 {
		return 0, nil, malformed("a block status payload of %d bytes", len(b))
	}
	length = binary.BigEndian.Uint64(b)
	for b = b[8:]; len(b) > 0; b = b[4:] {
		contexts = append(contexts, binary.BigEndian.Uint32(b))
	}
	return length, contexts, nil
}

// AppendSimpleReply appends a simple reply ("Simple reply message"). The data
// of a successful read follows it.
func AppendSimpleReply(b []byte, cookie uint64, e Errno) []byte {
	b = binary.BigEndian.AppendUint32(b, MagicSimpleReply)
	b = binary.BigEndian.AppendUint32(b, uint32(e))
	return binary.BigEndian.AppendUint64(b, cookie)
}
