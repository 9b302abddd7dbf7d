package cow

import (
	"math/rand/v2"
	"sync"
	"testing"
)

// TestStates compares the states of three chunks and a bit with a plain slice.
func TestStates(t *testing.T) {
	const n = 3*chunkBlocks + 45
	s, model := newStates(n), make([]state, n)
	rng := rand.New(rand.NewPCG(1, 2))
	check := func() {
		t.Helper()
		for b, runs := uint64(0), 0; b < n; runs++ {
			st, next := s.run(b, n)
			if next <= b || next > n {
				t.Fatalf("the run from block %d on ends with block %d", b, next)
			}
			for i := b; i < next; i++ {
				if model[i] != st {
					t.Fatalf("block %d is in state %d, not %d", i, st, model[i])
				}
			}
			if next < n && model[next] == st {
				t.Fatalf("the run of state %d from block %d on is cut short at %d", st, b, next)
			}
			b = next
		}
	}
	for step := range 3000 {
		first := rng.Uint64N(n)
		end := first + 1 + rng.Uint64N(200)
		switch {
		case step%100 == 0: // a whole chunk
			first = first / chunkBlocks * chunkBlocks
			end = first + chunkBlocks
		case step%3 != 0:
			s.fill(first)
			model[first] = inScratch
			continue
		}
		end = min(end, (first/chunkBlocks+1)*chunkBlocks, n)
		want := uint64(0)
		for i := first; i < end; i++ {
			if model[i] == inScratch {
				want++
			}
			model[i] = zeroed
		}
		if got := s.zero(first, end); got != want {
			t.Fatalf("%d of the blocks from %d to %d were in the scratch, not %d", got, first, end, want)
		}
		if step%50 == 0 {
			check()
		}
	}
	check()
	if st, next := s.run(3, 4); st != model[3] || next != 4 {
		t.Errorf("the run from block 3 up to 4 ends with %d", next)
	}
}

// TestStatesMemory: what was never touched, and what is zeroed as a whole, takes
// no memory.
func TestStatesMemory(t *testing.T) {
	const n = 16 << 40 / blockSize
	s := newStates(n)
	count := func() (chunks int) {
		for i := range s.chunks {
			if c := s.chunks[i].Load(); c != nil && c != zeroChunk {
				chunks++
			}
		}
		return chunks
	}
	for i := range uint64(5) {
		s.fill(i * n / 5)
	}
	if c := count(); c != 5 {
		t.Errorf("5 blocks that are far apart take %d chunks", c)
	}
	dropped := uint64(0)
	for b := uint64(0); b < n; b += chunkBlocks {
		dropped += s.zero(b, b+chunkBlocks)
	}
	if c := count(); c != 0 || dropped != 5 {
		t.Errorf("when all is zeroed, %d blocks were dropped and %d chunks are left", dropped, c)
	}
	if st, next := s.run(0, n); st != zeroed || next != n {
		t.Errorf("when all is zeroed, there is a run of state %d to %d", st, next)
	}
	zeroChunkIsClean(t)
}

// zeroChunkIsClean checks that nobody has written to what stands for many.
func zeroChunkIsClean(t *testing.T) {
	t.Helper()
	for i := range zeroChunk {
		if zeroChunk[i].Load() != 0 {
			t.Fatal("the chunk that stands for zeroes was written to")
		}
	}
}

// TestStatesOfNeighbours fills blocks of one chunk at the same time, from nothing
// and from zeroes.
func TestStatesOfNeighbours(t *testing.T) {
	const n, workers = chunkBlocks, 8
	s := newStates(n)
	for range 20 {
		var group sync.WaitGroup
		for w := range uint64(workers) {
			group.Go(func() {
				for b := w; b < n; b += workers {
					s.fill(b)
				}
			})
		}
		group.Wait()
		if st, next := s.run(0, n); st != inScratch || next != n {
			t.Fatalf("after all were filled there is a run of state %d to %d", st, next)
		}
		if dropped := s.zero(0, n); dropped != n {
			t.Fatalf("%d blocks were dropped", dropped)
		}
	}
	zeroChunkIsClean(t)
}
