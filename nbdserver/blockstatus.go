package nbdserver

import (
	"io"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// maxExtents bounds one reply to a block status request to 32 KiB, or 64 KiB
// with extended headers. A client asks again from where the reply ends.
const maxExtents = 4096

// selectContexts reads the payload of a block status request: the length that
// it asks about, which becomes that of the request, and its choice among the
// contexts that were negotiated. There is one, so a longer payload must name one
// twice, or one that isn't there, and is not read but left to the caller: rest
// is its length.
func (c *Conn) selectContexts(r *wire.Request) (no *refusal, rest uint64, err error) {
	const one = 8 + 4
	no = invalid("the payload names other metadata contexts than those that were negotiated, or one twice, or none")
	n := r.PayloadLength()
	if n > one {
		return no, n, nil
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c.br, b); err != nil {
		return nil, 0, err
	}
	length, contexts, err := wire.ParseBlockStatusPayload(b)
	if err != nil {
		return invalid("%v", err), 0, nil
	}
	if len(contexts) != 1 || contexts[0] != allocationID {
		return no, 0, nil
	}
	r.Length = length
	r.Flags &^= wire.FlagPayloadLen // there is nothing more to come
	return nil, 0, nil
}

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
	return mergeExtents(found, r.Length, uint64(c.export.blockSize()), limit), nil
}

// mergeExtents joins neighbours of the same status and cuts the list to limit
// extents and length bytes, whatever the Backend said. The extents are multiples
// of the block size, as length is: a block in which the status changes has none.
func mergeExtents(found []backend.Extent, length, block uint64, limit int) []wire.Extent {
	var all []wire.Extent
	// add appends what lies between the end of the list, at, and end.
	at := uint64(0)
	add := func(end uint64, flags wire.ExtentFlags) (full bool) {
		if end <= at {
			return false
		}
		if last := len(all) - 1; last >= 0 && all[last].Flags == flags {
			all[last].Length += end - at
		} else if len(all) == limit {
			return true
		} else {
			all = append(all, wire.Extent{Length: end - at, Flags: flags})
		}
		at = end
		return false
	}
	pos := uint64(0)
	for _, f := range found {
		start := pos
		pos += min(f.Length, length-pos)
		var flags wire.ExtentFlags
		if f.Hole {
			flags |= wire.StateHole
		}
		if f.Zero {
			flags |= wire.StateZero
		}
		// The block that this extent begins in the middle of.
		if add(roundUp(start, block), 0) {
			break
		}
		if add(pos-pos%block, flags) {
			break
		}
	}
	if len(all) == 0 {
		add(block, 0) // less than a block is known
	}
	return all
}

// roundUp rounds up to a multiple of a power of two.
func roundUp(n, multiple uint64) uint64 { return (n + multiple - 1) &^ (multiple - 1) }
