package wire

import "encoding/binary"

// Sizes of fixed parts in bytes.
const (
	// RequestSize is the size of a request before its payload.
	RequestSize = 28
	// SimpleReplySize is the size of a simple reply before its payload.
	SimpleReplySize = 16
	// ChunkHeaderSize is the size of the header of a structured reply's chunk.
	ChunkHeaderSize = 20
)

// Request is what a client asks in the transmission phase. The payload of a
// write follows it on the wire.
type Request struct {
	Flags   CommandFlags
	Command Command
	// Cookie is the client's name for the request, repeated in the reply.
	Cookie uint64
	// Offset and Length in bytes. Length has 32 bits on the wire here, and 64
	// with extended headers.
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

// PayloadLength is the number of bytes that follow the request on the wire.
func (r Request) PayloadLength() uint64 {
	if r.Command == CmdWrite {
		return r.Length
	}
	return 0
}

// AppendSimpleReply appends a simple reply ("Simple reply message"). The data
// of a successful read follows it.
func AppendSimpleReply(b []byte, cookie uint64, e Errno) []byte {
	b = binary.BigEndian.AppendUint32(b, MagicSimpleReply)
	b = binary.BigEndian.AppendUint32(b, uint32(e))
	return binary.BigEndian.AppendUint64(b, cookie)
}

// ChunkFlags are the flags of a structured reply's chunk.
type ChunkFlags uint16

// ChunkDone marks the last chunk of a structured reply.
const ChunkDone ChunkFlags = 1 << 0

// ChunkType says what a structured reply's chunk holds ("Structured reply
// types"). Those with the highest bit set are errors.
type ChunkType uint16

// Chunk types.
const (
	ChunkNone        ChunkType = 0
	ChunkOffsetData  ChunkType = 1
	ChunkBlockStatus ChunkType = 5
	ChunkError       ChunkType = 1<<15 + 1
)

func appendChunkHeader(b []byte, flags ChunkFlags, typ ChunkType, cookie uint64, length uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, MagicStructuredReply)
	b = binary.BigEndian.AppendUint16(b, uint16(flags))
	b = binary.BigEndian.AppendUint16(b, uint16(typ))
	b = binary.BigEndian.AppendUint64(b, cookie)
	return binary.BigEndian.AppendUint32(b, length)
}

// AppendNone appends a last chunk without content.
func AppendNone(b []byte, cookie uint64) []byte {
	return appendChunkHeader(b, ChunkDone, ChunkNone, cookie, 0)
}

// AppendOffsetData appends the header of a chunk with the data of a read from
// offset on; length bytes of data, at most MaxBlock, follow it.
func AppendOffsetData(b []byte, flags ChunkFlags, cookie, offset uint64, length uint32) []byte {
	b = appendChunkHeader(b, flags, ChunkOffsetData, cookie, length+8)
	return binary.BigEndian.AppendUint64(b, offset)
}

// AppendError appends a last chunk that says why a request failed, in words
// for the person at the other end. The message is cut at MaxString bytes.
func AppendError(b []byte, cookie uint64, e Errno, message string) []byte {
	message = CutString(message)
	b = appendChunkHeader(b, ChunkDone, ChunkError, cookie, uint32(6+len(message)))
	b = binary.BigEndian.AppendUint32(b, uint32(e))
	b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
	return append(b, message...)
}

// Extent is one range in the reply to a block status request.
type Extent struct {
	// Length in bytes, 1 to 2^32-1.
	Length uint32
	Flags  ExtentFlags
}

// AppendBlockStatus appends a last chunk with the status of a range.
func AppendBlockStatus(b []byte, cookie uint64, contextID uint32, extents []Extent) []byte {
	b = appendChunkHeader(b, ChunkDone, ChunkBlockStatus, cookie, uint32(4+8*len(extents)))
	b = binary.BigEndian.AppendUint32(b, contextID)
	for _, e := range extents {
		b = binary.BigEndian.AppendUint32(b, e.Length)
		b = binary.BigEndian.AppendUint32(b, uint32(e.Flags))
	}
	return b
}
