package memory

import (
	"context"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// Trim implements backend.Backend. The range reads as zeroes afterwards, and
// its memory is free for other uses.
func (m *Memory) Trim(ctx context.Context, off, length uint64) error {
	return m.WriteZeroes(ctx, off, length, backend.MayTrim)
}

// WriteZeroes implements backend.Backend. With MayTrim it frees every page that
// has become zero. Without mayTrim it frees none, so that the range keeps the
// memory that it has; but it allocates none either. There is nothing to gain:
// memory doesn't fragment, a later write can't fail for want of space (the
// process would end), and a client that zeroes a large volume in this way must
// not be able to end it. All of it counts as Fast: what isn't allocated is
// skipped, and the rest is cleared in place.
func (m *Memory) WriteZeroes(ctx context.Context, off, length uint64, flags backend.ZeroFlags) error {
	mayTrim := flags&backend.MayTrim != 0
	end := off + length
	first, last := (off+pageSize-1)/pageSize, end/pageSize
	if end == m.size {
		// Nothing follows the last page, even if the volume ends inside it.
		last = (end + pageSize - 1) / pageSize
	}
	if !mayTrim || first >= last {
		return m.clearRange(ctx, off, end, mayTrim)
	}
	m.tree.free(first, last)
	if err := m.clearRange(ctx, off, first*pageSize, true); err != nil {
		return err
	}
	return m.clearRange(ctx, min(last*pageSize, end), end, true)
}

// clearRange clears what is allocated from off to before end.
func (m *Memory) clearRange(ctx context.Context, off, end uint64, mayFree bool) error {
	for off < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		index, at := off/pageSize, off%pageSize
		pg, next := m.tree.find(index)
		if pg != nil {
			m.clearPage(index, at, min(pageSize, at+end-off), mayFree)
		}
		off = next * pageSize
	}
	return nil
}

// clearPage clears the bytes of a page from one offset in it to before another.
func (m *Memory) clearPage(index, from, to uint64, mayFree bool) {
	lock := &m.locks[index%stripes]
	lock.Lock()
	defer lock.Unlock()
	pg, _ := m.tree.find(index)
	if pg == nil {
		return
	}
	clear(pg[from:to])
	if mayFree && *pg == noPage {
		m.tree.free(index, index+1)
	}
}

// Cache implements backend.Backend. There is nothing to do: all is in memory.
func (m *Memory) Cache(context.Context, uint64, uint64) error { return nil }
