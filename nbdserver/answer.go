package nbdserver

import (
	"net"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// maxExtents bounds one reply to a block status request to 32 KiB. A client
// asks again from where the reply ends.
const maxExtents = 4096

// blockStatus gathers the extents of a range: one at least, together at most
// as long as the request.
func (c *Conn) blockStatus(r wire.Request) ([]wire.Extent, error) {
	limit := maxExtents
	if r.Flags&wire.FlagReqOne != 0 {
		limit = 1
	}
	found, err := c.export.Backend.Extents(c.ctx, r.Offset, r.Length, limit)
	if err != nil {
		return nil, err
	}
	return mergeExtents(found, r.Length, limit), nil
}

// mergeExtents joins neighbours of the same status and cuts the list to limit
// extents and length bytes, whatever the Backend said.
func mergeExtents(found []backend.Extent, length uint64, limit int) []wire.Extent {
	var all []wire.Extent
	for _, f := range found {
		n := min(f.Length, length)
		if n == 0 {
			break
		}
		length -= n
		var flags wire.ExtentFlags
		if f.Hole {
			flags |= wire.StateHole
		}
		if f.Zero {
			flags |= wire.StateZero
		}
		if last := len(all) - 1; last >= 0 && all[last].Flags == flags {
			all[last].Length += uint32(n)
			continue
		}
		if len(all) == limit {
			break
		}
		all = append(all, wire.Extent{Length: uint32(n), Flags: flags})
	}
	return all
}

// answer sends the reply to a request that succeeded.
func (c *Conn) answer(r wire.Request, data []byte, extents []wire.Extent) {
	switch {
	case r.Command == wire.CmdBlockStatus:
		c.send(wire.AppendBlockStatus(nil, r.Cookie, allocationID, extents), nil)
	case r.Command == wire.CmdRead && c.structured:
		c.send(wire.AppendOffsetData(nil, wire.ChunkDone, r.Cookie, r.Offset, uint32(len(data))), data)
	case r.Command == wire.CmdRead:
		c.send(wire.AppendSimpleReply(nil, r.Cookie, 0), data)
	case c.structured:
		c.send(wire.AppendNone(nil, r.Cookie), nil)
	default:
		c.send(wire.AppendSimpleReply(nil, r.Cookie, 0), nil)
	}
}

// answerError sends the reply to a request that failed, with the reason in
// words for clients that can take it.
func (c *Conn) answerError(r wire.Request, e wire.Errno, why string) {
	if c.structured {
		c.send(wire.AppendError(nil, r.Cookie, e, why), nil)
	} else {
		c.send(wire.AppendSimpleReply(nil, r.Cookie, e), nil)
	}
}

// send writes one reply as a whole. If it can't, the client is gone or the
// stream is out of step: either way the connection is over.
func (c *Conn) send(header, data []byte) {
	c.writing.Lock()
	defer c.writing.Unlock()
	var err error
	if len(data) == 0 || c.joins(data) {
		_, err = c.nc.Write(append(header, data...))
	} else {
		bufs := net.Buffers{header, data}
		_, err = bufs.WriteTo(c.nc)
	}
	if err != nil {
		// What the client has asked for is of no use to anybody, and may be a
		// lot of work.
		c.cancel()
		c.raw.Close()
	}
}
