package wire

import (
	"encoding/binary"
	"slices"
)

// ChunkFlags are the flags of a reply's chunk ("Structured and extended header
// reply flags").
type ChunkFlags uint16

// ChunkDone marks the last chunk of a reply.
const ChunkDone ChunkFlags = 1 << 0

// ChunkType says what a chunk holds ("Structured reply types"). Those with the
// highest bit set are errors.
type ChunkType uint16

// Chunk types.
const (
	ChunkNone           ChunkType = 0
	ChunkOffsetData     ChunkType = 1
	ChunkOffsetHole     ChunkType = 2
	ChunkBlockStatus    ChunkType = 5
	ChunkBlockStatusExt ChunkType = 6
	ChunkError          ChunkType = 1<<15 + 1
	ChunkErrorOffset    ChunkType = 1<<15 + 2
)

// MaxChunkHeader is the most bytes that AppendOffsetData and AppendOffsetHole
// append.
const MaxChunkHeader = 32 + 12

// Reply is what all chunks of a reply have in common ("Structured reply chunk
// message", "Extended reply chunk message").
type Reply struct {
	// Extended replies are for requests with extended headers, and nothing else
	// is.
	Extended bool
	// Cookie and Offset of the request.
	Cookie, Offset uint64
}

func (r Reply) appendHeader(b []byte, flags ChunkFlags, typ ChunkType, length uint32) []byte {
	magic := MagicStructuredReply
	if r.Extended {
		magic = MagicExtendedReply
	}
	b = binary.BigEndian.AppendUint32(b, magic)
	b = binary.BigEndian.AppendUint16(b, uint16(flags))
	b = binary.BigEndian.AppendUint16(b, uint16(typ))
	b = binary.BigEndian.AppendUint64(b, r.Cookie)
	if r.Extended {
		b = binary.BigEndian.AppendUint64(b, r.Offset)
		return binary.BigEndian.AppendUint64(b, uint64(length))
	}
	return binary.BigEndian.AppendUint32(b, length)
}

// AppendNone appends a last chunk without content.
func (r Reply) AppendNone(b []byte) []byte {
	return r.appendHeader(b, ChunkDone, ChunkNone, 0)
}

// AppendOffsetData appends the header of a chunk with the data of a read from
// offset on; length bytes of data, 1 to MaxBlock, follow it.
func (r Reply) AppendOffsetData(b []byte, flags ChunkFlags, offset uint64, length uint32) []byte {
	b = r.appendHeader(b, flags, ChunkOffsetData, length+8)
	return binary.BigEndian.AppendUint64(b, offset)
}

// AppendOffsetHole appends a chunk that says that length bytes from offset on, 1
// at least, read as zeroes.
func (r Reply) AppendOffsetHole(b []byte, flags ChunkFlags, offset uint64, length uint32) []byte {
	b = r.appendHeader(b, flags, ChunkOffsetHole, 12)
	b = binary.BigEndian.AppendUint64(b, offset)
	return binary.BigEndian.AppendUint32(b, length)
}

// AppendError appends a last chunk that says why a request failed, in words
// for the person at the other end. The message is cut at MaxString bytes.
func (r Reply) AppendError(b []byte, e Errno, message string) []byte {
	message = CutString(message)
	b = r.appendHeader(b, ChunkDone, ChunkError, uint32(6+len(message)))
	return appendMessage(b, e, message)
}

// AppendErrorOffset is AppendError for an error at an offset, which lies within
// the range of the request.
func (r Reply) AppendErrorOffset(b []byte, e Errno, message string, offset uint64) []byte {
	message = CutString(message)
	b = r.appendHeader(b, ChunkDone, ChunkErrorOffset, uint32(14+len(message)))
	return binary.BigEndian.AppendUint64(appendMessage(b, e, message), offset)
}

func appendMessage(b []byte, e Errno, message string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(e))
	b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
	return append(b, message...)
}

// Extent is one range in the reply to a block status request.
type Extent struct {
	// Length in bytes, at least 1. Only extended replies can tell of more than
	// 2^32-1, and only requests with extended headers can ask about more.
	Length uint64
	Flags  ExtentFlags
}

// AppendBlockStatus appends a last chunk with the status of a range.
func (r Reply) AppendBlockStatus(b []byte, contextID uint32, extents []Extent) []byte {
	if !r.Extended {
		b = slices.Grow(b, 20+4+8*len(extents))
		b = r.appendHeader(b, ChunkDone, ChunkBlockStatus, uint32(4+8*len(extents)))
		b = binary.BigEndian.AppendUint32(b, contextID)
		for _, e := range extents {
			b = binary.BigEndian.AppendUint32(b, uint32(e.Length))
			b = binary.BigEndian.AppendUint32(b, uint32(e.Flags))
		}
		return b
	}
	b = slices.Grow(b, 32+8+16*len(extents))
	b = r.appendHeader(b, ChunkDone, ChunkBlockStatusExt, uint32(8+16*len(extents)))
	b = binary.BigEndian.AppendUint32(b, contextID)
	b = binary.BigEndian.AppendUint32(b, uint32(len(extents)))
	for _, e := range extents {
		b = binary.BigEndian.AppendUint64(b, e.Length)
		b = binary.BigEndian.AppendUint64(b, uint64(e.Flags))
	}
	return b
}
