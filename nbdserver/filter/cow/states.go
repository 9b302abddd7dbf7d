package cow

import (
	"math/bits"
	"sync/atomic"
)

// state says where the content of a block is.
type state uint64

const (
	inBase state = iota
	inScratch
	zeroed // nowhere: it is zero
)

const (
	// chunkBlocks is the number of blocks in a chunk: 512 MiB, whose states take
	// 2 KiB.
	chunkBlocks = 8192
	// chunkSize is the size of a chunk in bytes. fileSize is a multiple of it.
	chunkSize = chunkBlocks * blockSize
	// wordBlocks is the number of states, of two bits, in a word.
	wordBlocks = 32
	// lowBits are the lower bits of the states in a word.
	lowBits = 0x5555555555555555
)

// chunk are the states of its blocks.
type chunk [chunkBlocks / wordBlocks]atomic.Uint64

// zeroChunk stands for every chunk of which all blocks are zeroed. It is never
// written to, and what is in it isn't looked at.
var zeroChunk = new(chunk)

// states are the states of all blocks of a volume. They take memory for the
// chunks in which not all blocks have the same state: nil is a chunk that is all
// in the base. To read them takes no lock.
type states struct {
	blocks uint64
	chunks []atomic.Pointer[chunk]
}

func newStates(blocks uint64) states {
	return states{blocks, make([]atomic.Pointer[chunk], (blocks+chunkBlocks-1)/chunkBlocks)}
}

// run returns the state of a block, and the first block behind it that has
// another: at most end.
func (s *states) run(block, end uint64) (st state, next uint64) {
	st, next = s.look(block)
	for next < end {
		other, further := s.look(next)
		if other != st {
			break
		}
		next = further
	}
	return st, min(next, end)
}

// look returns the state of a block, and a block behind it up to which all have
// the same, as far as one look can tell.
func (s *states) look(block uint64) (st state, next uint64) {
	i, at := block/chunkBlocks, block%chunkBlocks
	c := s.chunks[i].Load()
	switch c {
	case nil:
		return inBase, (i + 1) * chunkBlocks
	case zeroChunk:
		return zeroed, (i + 1) * chunkBlocks
	}
	word := c[at/wordBlocks].Load() >> (2 * (at % wordBlocks))
	st = state(word & 3)
	same := uint64(bits.TrailingZeros64(word^uint64(st)*lowBits)) / 2
	return st, block + min(same, wordBlocks-at%wordBlocks)
}

// fill notes that a block is in the scratch. The caller holds the lock of its
// chunk, for reading.
func (s *states) fill(block uint64) {
	at := block % chunkBlocks
	word, shift := &s.own(block / chunkBlocks)[at/wordBlocks], 2*(at%wordBlocks)
	for {
		old := word.Load()
		if word.CompareAndSwap(old, old&^(3<<shift)|uint64(inScratch)<<shift) {
			return
		}
	}
}

// own returns a chunk that can be written to, and makes it if need be. The caller
// holds its lock, for reading at least.
func (s *states) own(i uint64) *chunk {
	for {
		old := s.chunks[i].Load()
		if old != nil && old != zeroChunk {
			return old
		}
		c := new(chunk)
		if old == zeroChunk {
			for j := range c {
				c[j].Store(uint64(zeroed) * lowBits)
			}
		}
		s.chunks[i].CompareAndSwap(old, c)
	}
}

// zero notes that the blocks from first to before end, of one chunk, are zeroed,
// and returns how many of them were in the scratch. The caller holds the lock of
// the chunk, for writing.
func (s *states) zero(first, end uint64) (dropped uint64) {
	i := first / chunkBlocks
	whole := first%chunkBlocks == 0 && end == min((i+1)*chunkBlocks, s.blocks)
	switch old := s.chunks[i].Load(); {
	case old == zeroChunk:
		return 0
	case old == nil && whole:
		s.chunks[i].Store(zeroChunk)
		return 0
	}
	c := s.own(i)
	for block := first; block < end; {
		at := block % chunkBlocks
		n := min(wordBlocks-at%wordBlocks, end-block)
		mask := (uint64(1)<<(2*n) - 1) << (2 * (at % wordBlocks))
		word := &c[at/wordBlocks]
		old := word.Load()
		dropped += uint64(bits.OnesCount64(old & mask & lowBits)) // inScratch is 1, zeroed is 2
		word.Store(old&^mask | uint64(zeroed)*lowBits&mask)
		block += n
	}
	if whole {
		s.chunks[i].Store(zeroChunk)
	}
	return dropped
}
