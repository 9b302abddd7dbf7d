package qcow2

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
)

// kind is how a piece of the volume is there.
type kind uint8

const (
	// unallocated reads as zeroes, and takes no space.
	unallocated kind = iota
	// zeroed reads as zeroes, and takes space.
	zeroed
	// plain is in the file as it is.
	plain
	// compressed is one cluster, or a part of it.
	compressed
)

// piece is a range of the volume that lies in one place.
type piece struct {
	kind   kind
	off    uint64 // in the volume
	length uint64
	// host is where it is in the file: a plain one itself, of a compressed one the
	// whole cluster, which has packed bytes there.
	host, packed uint64
}

// Bits of the entries of tables.
const (
	offsetBits   = 1<<56 - 1<<9 // where in the file, of L1 and L2 entries
	l1Reserved   = 1<<63 - 1<<56 | 1<<9 - 1
	isCompressed = 1 << 62
	isZero       = 1
	l2Reserved   = 1<<62 - 1<<56 | 1<<9 - 2
	subclusters  = 32
)

// chunk is how much of a table is read at a time, in bytes.
const chunk = 4096

// tables are the parts of tables that one walk uses.
type tables struct{ l1, l2 [chunk]byte }

var pool = sync.Pool{New: func() any { return new(tables) }}

// walk calls visit with the pieces of a range, in their order and without gaps,
// until it returns false. Neighbours of one kind may come as one piece. It reads
// at most limit chunks of tables, 0 for as many as it takes, and stops short of the
// end of the range when that isn't enough.
func (i *Image) walk(ctx context.Context, off, length uint64, limit int, visit func(piece) bool) error {
	w := walker{Image: i, ctx: ctx, visit: visit, tables: pool.Get().(*tables)}
	defer pool.Put(w.tables)
	for end := off + length; off < end && !w.done; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if limit > 0 && w.chunks >= limit {
			break
		}
		next, err := w.step(off, end)
		if err != nil {
			w.flush()
			return fmt.Errorf("lookup of the cluster at %d: %w", off, err)
		}
		off = next
	}
	w.flush()
	return nil
}

// walker is a walk under way.
type walker struct {
	*Image
	*tables
	ctx    context.Context
	visit  func(piece) bool
	last   piece // not visited yet, if it has a length
	done   bool  // visit wants no more
	chunks int   // of tables that were read

	l1Start, l1Entries uint64 // what l1 has: from which entry on, and how many
}

// step adds the pieces from off on, up to the end or that of a chunk of an L2 table,
// and returns where they end.
func (w *walker) step(off, end uint64) (uint64, error) {
	cluster := off >> w.clusterBits
	index := cluster >> w.l2Bits()
	l1, err := w.l1Entry(index)
	if err != nil {
		return 0, err
	}
	if l1&l1Reserved != 0 {
		return 0, fmt.Errorf("%w: L1 entry %d is %#x", ErrDamaged, index, l1)
	}
	// What the table covers may end beyond 2^64.
	span := w.clusterSize() << w.l2Bits()
	if left := span - off&(span-1); left < end-off {
		end = off + left
	}
	table := l1 & offsetBits
	if table == 0 {
		w.add(piece{kind: unallocated, off: off, length: end - off})
		return end, nil
	}
	if table&w.inCluster() != 0 || !fits(table, w.clusterSize(), w.fileSize) {
		return 0, fmt.Errorf("%w: L1 entry %d leads to %d, where no L2 table is", ErrDamaged, index, table)
	}
	first := cluster & (1<<w.l2Bits() - 1)
	count := min((end-1)>>w.clusterBits-cluster+1, chunk/w.entrySize())
	b := w.l2[:count*w.entrySize()]
	if err := w.read(b, table+first*w.entrySize()); err != nil {
		return 0, err
	}
	for n := uint64(0); n < count && !w.done; n++ {
		e := b[n*w.entrySize():]
		next := min(end, (cluster+n+1)<<w.clusterBits)
		var bitmap uint64
		if w.extended {
			bitmap = binary.BigEndian.Uint64(e[8:])
		}
		if err := w.cluster(off, next-off, binary.BigEndian.Uint64(e), bitmap); err != nil {
			return 0, err
		}
		off = next
	}
	return off, nil
}

// l1Entry reads an entry of the L1 table, and with it those that a walk over many
// of them will want next.
func (w *walker) l1Entry(index uint64) (uint64, error) {
	if index-w.l1Start >= w.l1Entries { // also if it is before the start
		last := (w.size - 1) >> w.clusterBits >> w.l2Bits()
		n := min(last-index+1, chunk/8)
		if w.chunks == 0 {
			n = min(n, 8) // most walks are short
		}
		if err := w.read(w.l1[:n*8], w.header.l1+index*8); err != nil {
			return 0, err
		}
		w.l1Start, w.l1Entries = index, n
	}
	return binary.BigEndian.Uint64(w.l1[(index-w.l1Start)*8:]), nil
}

// read reads a part of a table.
func (w *walker) read(b []byte, host uint64) error {
	w.chunks++
	return w.file.ReadAt(w.ctx, b, host)
}

// cluster adds the pieces of a range within one cluster, with its L2 entry.
func (w *walker) cluster(off, length, entry, bitmap uint64) error {
	if entry&isCompressed != 0 {
		return w.compressedCluster(off, length, entry, bitmap)
	}
	host := entry & offsetBits
	if host&w.inCluster() != 0 || host >= w.fileSize && host != 0 || entry&l2Reserved != 0 || entry&isZero != 0 && (w.version < 3 || w.extended) {
		return fmt.Errorf("%w: the L2 entry is %#x", ErrDamaged, entry)
	}
	if w.extended {
		return w.subclusters(off, length, host, bitmap)
	}
	p := piece{kind: plain, off: off, length: length, host: host + off&w.inCluster()}
	switch {
	case host == 0:
		p.kind = unallocated
	case entry&isZero != 0:
		p.kind = zeroed
	}
	w.add(p)
	return nil
}

// subclusters adds the pieces of a range within a cluster of which each 32nd is
// there or isn't: the lower half of the bitmap says which are allocated, the upper
// one which are zeroes.
func (w *walker) subclusters(off, length, host, bitmap uint64) error {
	allocated, zero := uint32(bitmap), uint32(bitmap>>subclusters)
	if allocated&zero != 0 || host == 0 && allocated != 0 {
		return fmt.Errorf("%w: the bitmap of an L2 entry is %#x", ErrDamaged, bitmap)
	}
	size := w.clusterSize() / subclusters
	for end := off + length; off < end; {
		at := off & w.inCluster()
		bit := at / size
		p := piece{kind: unallocated, off: off, length: min(end-off, size-at%size), host: host + at}
		switch {
		case allocated>>bit&1 != 0:
			p.kind = plain
		case host != 0:
			p.kind = zeroed // it takes space, and without a backing file it is zero
		}
		w.add(p)
		off += p.length
	}
	return nil
}

// compressedCluster adds a range of a compressed cluster. Its entry has the place
// in bytes, and how many sectors of 512 bytes follow the one that it begins in.
func (w *walker) compressedCluster(off, length, entry, bitmap uint64) error {
	bits := 62 - (w.clusterBits - 8)
	host := entry & (1<<bits - 1)
	sectors := entry & (isCompressed - 1) >> bits
	if host == 0 || host >= w.fileSize || bitmap != 0 {
		return fmt.Errorf("%w: the L2 entry is %#x", ErrDamaged, entry)
	}
	// The last sector need not be there in full.
	packed := min((sectors+1)*512-host&511, w.fileSize-host)
	w.add(piece{kind: compressed, off: off, length: length, host: host, packed: packed})
	return nil
}

// add puts a piece behind the last one, or makes that longer.
func (w *walker) add(p piece) {
	l := &w.last
	if p.kind == l.kind && p.kind != compressed && l.length > 0 && (p.kind != plain || l.host+l.length == p.host) {
		l.length += p.length
		return
	}
	w.flush()
	w.last = p
}

// flush visits the last piece.
func (w *walker) flush() {
	if w.last.length > 0 && !w.done {
		w.done = !w.visit(w.last)
	}
	w.last = piece{}
}
