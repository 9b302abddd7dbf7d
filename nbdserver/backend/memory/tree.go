package memory

import "sync/atomic"

// fanBits is the base-2 logarithm of the number of children of a node. A node
// takes 8 KiB, and one of the lowest level spans 32 MiB of the volume.
const fanBits = 10

// page is the content of one page.
type page [pageSize]byte

// node is an inner node of the tree. One of the two slices has 2^fanBits
// elements and the other is nil: pages in a node of the lowest level, children
// in the others. A nil element says that nothing is allocated below it.
type node struct {
	children []atomic.Pointer[node]
	pages    []atomic.Pointer[page]
}

// tree finds a page by its index. A radix tree rather than a map, because it
// skips what isn't there: the extents and the trimming of a range cost what is
// allocated in it, not what it spans. It is walked without locks.
//
// A subtree that is cut off while somebody writes to a page in it takes that
// write along. This is as if the write had come first: only an operation on the
// whole range of the subtree cuts it off, and the two ran at the same time.
type tree struct {
	root *node
	// height is the number of levels of nodes, at least 1.
	height int
	// pages is the number of pages of the volume.
	pages uint64
}

func newTree(pages uint64) tree {
	height := 1
	for pages > 1<<(fanBits*height) {
		height++
	}
	return tree{root: newNode(height - 1), height: height, pages: pages}
}

// newNode makes an empty node of a level; level 0 is the lowest.
func newNode(level int) *node {
	if level == 0 {
		return &node{pages: make([]atomic.Pointer[page], 1<<fanBits)}
	}
	return &node{children: make([]atomic.Pointer[node], 1<<fanBits)}
}

// slot is the index within a node of a level of the child that leads to a page.
func slot(index uint64, level int) uint64 {
	return index >> (fanBits * level) & (1<<fanBits - 1)
}

// find returns a page. If there is none it returns nil and the index of the
// next page that may be there.
func (t *tree) find(index uint64) (p *page, next uint64) {
	n := t.root
	for level := t.height - 1; level > 0; level-- {
		if n = n.children[slot(index, level)].Load(); n == nil {
			return nil, (index>>(fanBits*level) + 1) << (fanBits * level)
		}
	}
	return n.pages[slot(index, 0)].Load(), index + 1
}

// place returns the place of a page, and makes the nodes that lead to it.
func (t *tree) place(index uint64) *atomic.Pointer[page] {
	n := t.root
	for level := t.height - 1; level > 0; level-- {
		child := &n.children[slot(index, level)]
		next := child.Load()
		for next == nil {
			child.CompareAndSwap(nil, newNode(level-1))
			next = child.Load()
		}
		n = next
	}
	return &n.pages[slot(index, 0)]
}

// free frees the pages from first to before end, in as large pieces as the tree
// has.
func (t *tree) free(first, end uint64) {
	t.root.free(t.height-1, first, min(end, t.pages), t.pages)
}

// free frees the pages from first to before end, which lie below the node, of
// a volume with the given number of pages.
func (n *node) free(level int, first, end, pages uint64) {
	for first < end {
		i := slot(first, level)
		if level == 0 {
			n.pages[i].Store(nil)
			first++
			continue
		}
		start := first >> (fanBits * level) << (fanBits * level)
		next := start + 1<<(fanBits*level)
		child := &n.children[i]
		switch c := child.Load(); {
		case c == nil:
		case first == start && end >= min(next, pages):
			child.Store(nil)
		default:
			c.free(level-1, first, min(end, next), pages)
		}
		first = next
	}
}
