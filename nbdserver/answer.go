package nbdserver

import (
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// replyTo begins a reply in chunks.
func replyTo(r wire.Request) wire.Reply {
	return wire.Reply{Extended: r.Extended, Cookie: r.Cookie, Offset: r.Offset}
}

// answer sends the reply to a request that succeeded.
func (c *Conn) answer(r wire.Request, data []byte, extents []wire.Extent) {
	c.writing <- struct{}{}
	defer func() { <-c.writing }()
	b := c.header[:0]
	switch {
	case r.Command == wire.CmdBlockStatus:
		c.send(replyTo(r).AppendBlockStatus(nil, allocationID, extents))
	case r.Command == wire.CmdRead && len(extents) > 0:
		c.answerRead(r, data, extents)
	case r.Command == wire.CmdRead && c.structured:
		c.send(replyTo(r).AppendOffsetData(b, wire.ChunkDone, r.Offset, uint32(len(data))), data)
	case r.Command == wire.CmdRead:
		c.send(wire.AppendSimpleReply(b, r.Cookie, 0), data)
	case c.structured:
		c.send(replyTo(r).AppendNone(b))
	default:
		c.send(wire.AppendSimpleReply(b, r.Cookie, 0))
	}
}

// refuse sends the reply to a request that failed, with the reason in words for
// clients that can take it.
func (c *Conn) refuse(r wire.Request, no *refusal) {
	c.writing <- struct{}{}
	defer func() { <-c.writing }()
	b := c.header[:0]
	switch {
	case !c.structured:
		c.send(wire.AppendSimpleReply(b, r.Cookie, no.errno))
	case no.located:
		c.send(replyTo(r).AppendErrorOffset(b, no.errno, no.why, no.at))
	default:
		c.send(replyTo(r).AppendError(b, no.errno, no.why))
	}
}

// send writes the parts of one reply. c.writing is held. If it can't, the client
// is gone or the stream is out of step: either way the connection is over.
func (c *Conn) send(parts ...[]byte) {
	if err := c.write(parts); err != nil {
		// What the client has asked for is of no use to anybody, and may be a
		// lot of work.
		c.cancel()
		c.raw.Close()
	}
}
