package memory

import (
	"bytes"
	"context"
)

// ReadAt implements backend.Backend. It doesn't look at the context.
func (m *Memory) ReadAt(_ context.Context, p []byte, off uint64) error {
	for len(p) > 0 {
		index, at := off/pageSize, off%pageSize
		n := min(uint64(len(p)), pageSize-at)
		m.readPage(p[:n], index, at)
		p, off = p[n:], off+n
	}
	return nil
}

func (m *Memory) readPage(p []byte, index, at uint64) {
	lock := &m.locks[index%stripes]
	lock.RLock()
	defer lock.RUnlock()
	pg, _ := m.tree.find(index)
	if pg == nil {
		clear(p)
		return
	}
	copy(p, pg[at:])
}

// WriteAt implements backend.Backend. It doesn't look at the context. Zeroes
// that are written where nothing is allocated allocate nothing.
func (m *Memory) WriteAt(_ context.Context, p []byte, off uint64) error {
	for len(p) > 0 {
		index, at := off/pageSize, off%pageSize
		n := min(uint64(len(p)), pageSize-at)
		m.writePage(p[:n], index, at)
		p, off = p[n:], off+n
	}
	return nil
}

// noPage is what a page that isn't allocated reads as.
var noPage page

func (m *Memory) writePage(p []byte, index, at uint64) {
	lock := &m.locks[index%stripes]
	lock.Lock()
	defer lock.Unlock()
	pg, _ := m.tree.find(index)
	if pg == nil {
		if bytes.Equal(p, noPage[:len(p)]) {
			return
		}
		pg = new(page)
		copy(pg[at:], p)
		m.tree.place(index).Store(pg)
		return
	}
	copy(pg[at:], p)
}
