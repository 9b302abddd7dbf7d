package cow

import (
	"context"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// maxSteps bounds the work of one call of Extents: that many looks at the base,
// some milliseconds. The answer falls short beyond.
const maxSteps = 4096

// Extents implements backend.Backend. A block in the scratch is data, one that is
// zeroed is a hole, and of the others the base tells.
func (o *Overlay) Extents(ctx context.Context, off, length uint64, max int) ([]backend.Extent, error) {
	var list []backend.Extent
	end := off + length
	for range maxSteps {
		if off == end {
			break
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		found, err := o.extents(ctx, off, end-off, max)
		if err != nil {
			return nil, err
		}
		for _, e := range found {
			if i := len(list) - 1; i >= 0 && list[i].Hole == e.Hole && list[i].Zero == e.Zero {
				list[i].Length += e.Length
			} else if len(list) == max {
				return list, nil
			} else {
				list = append(list, e)
			}
			off += e.Length
		}
	}
	return list, nil
}

// extents returns at least one extent from off on, of blocks in one state.
func (o *Overlay) extents(ctx context.Context, off, length uint64, max int) ([]backend.Extent, error) {
	st, next := o.states.run(off/blockSize, blocks(off+length))
	n := min(next*blockSize-off, length)
	if st == inBase {
		return o.base.Extents(ctx, off, n, max)
	}
	return []backend.Extent{{Length: n, Hole: st == zeroed, Zero: st == zeroed}}, nil
}
