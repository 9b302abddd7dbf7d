package nbdserver

import (
	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

const (
	// minSplit is the shortest read in bytes for which the Backend is asked
	// where its holes are. For a file that is two system calls for each extent,
	// a microsecond or more: nothing beside a read of this length, but a good
	// part of one of 4 KiB. Clients that copy read more than this at a time.
	minSplit = 64 << 10
	// minHole is the shortest hole in bytes that is left out of an answer. A
	// shorter one takes less time to read and to send as zeroes than the
	// further chunk, the further call into the Backend, and the client's
	// further calls to receive both.
	minHole = 16 << 10
	// maxParts bounds what is asked of the Backend for one read. What comes
	// behind that many extents is read as data.
	maxParts = 64
)

// readData reads what a request asks for, and returns the parts in which it is
// to be sent: those that are zero are holes and were not read. No parts stand
// for all of data.
//
// The Backend is asked for its extents when the read has begun. So a write that
// was answered before is seen in them, and one that fills a hole later runs at
// the same time as the read, which may or may not see it.
func (c *Conn) readData(r wire.Request, data []byte) ([]wire.Extent, error) {
	b := c.export.Backend
	var parts []wire.Extent
	if c.structured && r.Flags&wire.FlagDF == 0 && r.Length >= minSplit {
		// Where nothing is known of holes, all is data.
		if found, err := b.Extents(c.ctx, r.Offset, r.Length, maxParts); err == nil {
			parts = splitRead(found, r.Length)
		}
	}
	if parts == nil {
		return nil, b.ReadAt(c.ctx, data, r.Offset)
	}
	at := uint64(0)
	for _, p := range parts {
		if p.Flags == 0 {
			if err := b.ReadAt(c.ctx, data[at:at+p.Length], r.Offset+at); err != nil {
				return nil, err
			}
		}
		at += p.Length
	}
	return parts, nil
}

// splitRead divides a range of length bytes into data, without flags, and holes
// that are worth it, which read as zeroes. It returns nil if all is data.
func splitRead(found []backend.Extent, length uint64) (parts []wire.Extent) {
	at, done := uint64(0), uint64(0) // the ends of what was looked at, and of parts
	for len(found) > 0 {
		start := at
		for ; len(found) > 0 && found[0].Zero; found = found[1:] {
			at += min(found[0].Length, length-at)
		}
		if at-start >= minHole {
			if start > done {
				parts = append(parts, wire.Extent{Length: start - done})
			}
			parts = append(parts, wire.Extent{Length: at - start, Flags: wire.StateZero})
			done = at
		}
		for ; len(found) > 0 && !found[0].Zero; found = found[1:] {
			at += min(found[0].Length, length-at)
		}
	}
	if parts != nil && done < length {
		parts = append(parts, wire.Extent{Length: length - done})
	}
	return parts
}

// answerRead sends the data of a read in its parts. All of it has been read, so
// nothing can fail half way. c.writing is held.
func (c *Conn) answerRead(r wire.Request, data []byte, parts []wire.Extent) {
	reply := replyTo(r)
	headers := make([]byte, 0, len(parts)*wire.MaxChunkHeader)
	bufs := make([][]byte, 0, 2*len(parts))
	offset := r.Offset
	sent := 0 // bytes of headers that are in bufs
	for i, p := range parts {
		var flags wire.ChunkFlags
		if i == len(parts)-1 {
			flags = wire.ChunkDone
		}
		if p.Flags == 0 {
			headers = reply.AppendOffsetData(headers, flags, offset, uint32(p.Length))
			at := offset - r.Offset
			bufs = append(bufs, headers[sent:], data[at:at+p.Length])
			sent = len(headers)
		} else {
			headers = reply.AppendOffsetHole(headers, flags, offset, uint32(p.Length))
		}
		offset += p.Length
	}
	if sent < len(headers) { // a hole at the end
		bufs = append(bufs, headers[sent:])
	}
	c.send(bufs...)
}
