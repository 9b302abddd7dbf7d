package nbdserver

import (
	"fmt"
	"io"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// refusal is why a request fails: an error of the protocol and its reason in
// words.
type refusal struct {
	errno wire.Errno
	why   string
	// at is the offset of the first byte that is wrong, if located.
	at      uint64
	located bool
}

func invalid(format string, args ...any) *refusal {
	return &refusal{errno: wire.EINVAL, why: fmt.Sprintf(format, args...)}
}

// maxPayload is the longest payload that is read, and thrown away if it isn't
// wanted. Behind a longer one the connection is closed: with extended headers
// the specification asks for that, and without them a client that mistakes the
// maximum a little should learn of it, and one that means to keep the server
// busy should not.
func maxPayload(r wire.Request) uint64 {
	if r.Extended {
		return wire.MaxBlock
	}
	return 2 * wire.MaxBlock
}

// admit tells whether a request can be begun, before anything is allocated or
// done for it. The payload of a request that can't has been read then, and so
// has that of a block status request, which says what is asked for.
func (c *Conn) admit(r *wire.Request) (*refusal, error) {
	rest := r.PayloadLength()
	if rest > maxPayload(*r) {
		return nil, fmt.Errorf("%w: %s with a payload of %d bytes", errBadRequest, r.Command, rest)
	}
	no := c.check(*r)
	if no == nil && r.Command == wire.CmdBlockStatus && r.Flags&wire.FlagPayloadLen != 0 {
		var err error
		if no, rest, err = c.selectContexts(r); err != nil {
			return nil, gone(err)
		}
	}
	if no == nil {
		no = c.checkRange(*r)
	}
	if no == nil {
		return nil, nil
	}
	// The payload comes whether it is wanted or not.
	if _, err := io.CopyN(io.Discard, c.br, int64(rest)); err != nil {
		return nil, gone(err)
	}
	return no, nil
}

// allowed are the flags that each command may carry. FUA is good for every
// command, whether or not it writes ("Command flags").
var allowed = map[wire.Command]wire.CommandFlags{
	wire.CmdRead:        wire.FlagFUA | wire.FlagDF,
	wire.CmdWrite:       wire.FlagFUA | wire.FlagPayloadLen,
	wire.CmdFlush:       wire.FlagFUA,
	wire.CmdTrim:        wire.FlagFUA,
	wire.CmdCache:       wire.FlagFUA,
	wire.CmdWriteZeroes: wire.FlagFUA | wire.FlagNoHole | wire.FlagFastZero,
	wire.CmdBlockStatus: wire.FlagFUA | wire.FlagReqOne | wire.FlagPayloadLen,
}

// check tells what is wrong with a request but for its range, nil for nothing.
func (c *Conn) check(r wire.Request) *refusal {
	c.mu.Lock()
	refusing := c.refusing
	c.mu.Unlock()
	if refusing {
		return &refusal{errno: wire.ESHUTDOWN, why: "the server takes no more requests on this connection"}
	}
	flags, known := allowed[r.Command]
	if !known {
		return invalid("%s is not supported", r.Command)
	}
	if !c.structured {
		flags &^= wire.FlagDF
	}
	if !c.export.info.FastZero {
		flags &^= wire.FlagFastZero
	}
	if !r.Extended {
		flags &^= wire.FlagPayloadLen
	}
	if bad := r.Flags &^ flags; bad != 0 {
		return invalid("flags %#x are not allowed with %s on this connection", uint16(bad), r.Command)
	}
	if r.Extended && r.Command == wire.CmdWrite && r.Flags&wire.FlagPayloadLen == 0 {
		return invalid("a write with extended headers needs the flag PAYLOAD_LEN")
	}
	if c.export.info.ReadOnly && changes(r.Command) {
		return &refusal{errno: wire.EPERM, why: "the export is read-only"}
	}
	if r.Command == wire.CmdBlockStatus && (c.allocation == nil || !c.structured) {
		return invalid("no metadata context was negotiated for this export")
	}
	return nil
}

// checkRange tells what is wrong with the offset and length of a request, nil
// for nothing ("Size constraints", "Error values").
func (c *Conn) checkRange(r wire.Request) *refusal {
	if r.Command == wire.CmdFlush {
		if r.Offset != 0 || r.Length != 0 {
			return invalid("a flush has no offset and no length")
		}
		return nil
	}
	if r.Length == 0 {
		return invalid("the length is 0")
	}
	if (r.Command == wire.CmdRead || r.Command == wire.CmdWrite) && r.Length > wire.MaxBlock {
		no := invalid("the length %d is over the maximum block size %d", r.Length, wire.MaxBlock)
		// For a read that could have been sent in parts there is an error of
		// its own, which says that shorter ones will do.
		if r.Command == wire.CmdRead && c.structured {
			no.errno = wire.EOVERFLOW
		}
		return no
	}
	if b := uint64(c.export.blockSize()); r.Offset%b != 0 || r.Length%b != 0 {
		return invalid("%d bytes from %d on are no multiples of the block size %d", r.Length, r.Offset, b)
	}
	// Written so that it cannot wrap.
	if size := c.size; r.Length > size || r.Offset > size-r.Length {
		no := invalid("%d bytes from %d on reach beyond the end of the export at %d", r.Length, r.Offset, size)
		// The offset must lie within the range. Where that has no end below
		// 2^64, libnbd takes any offset for one outside, and leaves.
		no.at, no.located = max(r.Offset, size), r.Offset+r.Length > r.Offset
		if r.Command == wire.CmdWrite || r.Command == wire.CmdWriteZeroes {
			no.errno = wire.ENOSPC
		}
		return no
	}
	return nil
}
