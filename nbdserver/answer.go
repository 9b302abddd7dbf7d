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
	switch {
	case r.Command == wire.CmdBlockStatus:
		c.send(replyTo(r).AppendBlockStatus(nil, allocationID, extents), nil)
	case r.Command == wire.CmdRead && len(extents) > 0:
		c.answerRead(r, data, extents)
	case r.Command == wire.CmdRead && c.structured:
		c.send(replyTo(r).AppendOffsetData(nil, wire.ChunkDone, r.Offset, uint32(len(data))), data)
	case r.Command == wire.CmdRead:
		c.send(wire.AppendSimpleReply(nil, r.Cookie, 0), data)
	case c.structured:
		c.send(replyTo(r).AppendNone(nil), nil)
	default:
		c.send(wire.AppendSimpleReply(nil, r.Cookie, 0), nil)
	}
}

// refuse sends the reply to a request that failed, with the reason in words for
// clients that can take it.
func (c *Conn) refuse(r wire.Request, no *refusal) {
	switch {
	case !c.structured:
		c.send(wire.AppendSimpleReply(nil, r.Cookie, no.errno), nil)
	case no.located:
		c.send(replyTo(r).AppendErrorOffset(nil, no.errno, no.why, no.at), nil)
	default:
		c.send(replyTo(r).AppendError(nil, no.errno, no.why), nil)
	}
}

// send writes one reply as a whole. If it can't, the client is gone or the
// stream is out of step: either way the connection is over.
func (c *Conn) send(header, data []byte, more ...[]byte) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.write(append([][]byte{header, data}, more...)); err != nil {
		// What the client has asked for is of no use to anybody, and may be a
		// lot of work.
		c.cancel()
		c.raw.Close()
	}
}
