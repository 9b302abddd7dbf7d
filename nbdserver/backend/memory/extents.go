package memory

import (
	"context"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// maxSteps bounds the work of one call of Extents: that many pages that are
// there, and empty parts of the tree, some milliseconds. The answer falls short
// beyond.
const maxSteps = 1 << 17

// Extents implements backend.Backend. A page that is allocated is data, even if
// all of it is zero; one that isn't is a hole.
func (m *Memory) Extents(ctx context.Context, off, length uint64, max int) ([]backend.Extent, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var list []backend.Extent
	end := off + length
	for range maxSteps {
		if off >= end {
			break
		}
		pg, next := m.tree.find(off / pageSize)
		n := end - off
		if next < (end+pageSize-1)/pageSize {
			n = next*pageSize - off
		}
		hole := pg == nil
		if i := len(list) - 1; i >= 0 && list[i].Hole == hole {
			list[i].Length += n
		} else if len(list) == max {
			break
		} else {
			list = append(list, backend.Extent{Length: n, Hole: hole, Zero: hole})
		}
		off += n
	}
	return list, nil
}
