package nbdserver

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

func TestBlockStatus(t *testing.T) {
	c := dial(t, listen(t, newMemory(t, 8<<30)))
	c.begin(true)
	c.request(0, wire.CmdWrite, 1, 1<<20, 4, "data")
	c.chunk()
	status := func(flags wire.CommandFlags, offset uint64, length uint32) (extents [][2]uint32) {
		c.request(flags, wire.CmdBlockStatus, 2, offset, length)
		_, typ, _, p := c.chunk()
		if id := binary.BigEndian.Uint32(p); typ != 5 || id != 1 {
			t.Fatalf("chunk type %#x, context %d", typ, id)
		}
		for p = p[4:]; len(p) > 0; p = p[8:] {
			extents = append(extents, [2]uint32{binary.BigEndian.Uint32(p), binary.BigEndian.Uint32(p[4:])})
		}
		return extents
	}
	// Hole, data, hole: the memory's pages are larger than the four bytes.
	got := status(0, 0, 4<<20)
	if len(got) != 3 || got[0] != [2]uint32{1 << 20, 3} || got[1][1] != 0 || got[0][0]+got[1][0]+got[2][0] != 4<<20 {
		t.Errorf("extents %v", got)
	}
	if got := status(wire.FlagReqOne, 0, 4<<20); len(got) != 1 || got[0] != [2]uint32{1 << 20, 3} {
		t.Errorf("extents with REQ_ONE %v", got)
	}
	// The longest request there is (CVE-2025-47711, CVE-2025-47712 in nbdkit).
	if got := status(0, 1<<32, math.MaxUint32); len(got) != 1 || got[0] != [2]uint32{math.MaxUint32, 3} {
		t.Errorf("extents of 2^32-1 bytes %v", got)
	}
}

func TestMergeExtents(t *testing.T) {
	data, hole := backend.Extent{Length: 10}, backend.Extent{Length: 10, Hole: true, Zero: true}
	long := func(n uint64) backend.Extent { return backend.Extent{Length: n} }
	gap := func(n uint64) backend.Extent { return backend.Extent{Length: n, Hole: true, Zero: true} }
	tests := []struct {
		name   string
		found  []backend.Extent
		length uint64
		block  uint64
		limit  int
		want   []wire.Extent
	}{
		{"neighbours are joined", []backend.Extent{data, data, hole}, 30, 1, 9, []wire.Extent{{Length: 20}, {Length: 10, Flags: 3}}},
		{"joined although one is allowed", []backend.Extent{data, data, hole}, 30, 1, 1, []wire.Extent{{Length: 20}}},
		{"cut to the length", []backend.Extent{data, hole}, 15, 1, 9, []wire.Extent{{Length: 10}, {Length: 5, Flags: 3}}},
		{"nothing beyond the length", []backend.Extent{data, hole}, 10, 1, 9, []wire.Extent{{Length: 10}}},
		{"nothing is known", nil, 10, 1, 9, []wire.Extent{{Length: 1}}},
		{"extents of nothing", []backend.Extent{{}, hole, {}, data}, 20, 1, 9, []wire.Extent{{Length: 10, Flags: 3}, {Length: 10}}},
		{"blocks of their own", []backend.Extent{long(512), gap(1024), long(512)}, 2048, 512, 9, []wire.Extent{{Length: 512}, {Length: 1024, Flags: 3}, {Length: 512}}},
		{"data ends in a block", []backend.Extent{long(100), gap(1948)}, 2048, 512, 9, []wire.Extent{{Length: 512}, {Length: 1536, Flags: 3}}},
		{"hole ends in a block", []backend.Extent{gap(1000), long(1048)}, 2048, 512, 9, []wire.Extent{{Length: 512, Flags: 3}, {Length: 1536}}},
		{"hole becomes zeroes in a block", []backend.Extent{gap(1000), {Length: 1048, Zero: true}}, 2048, 512, 9, []wire.Extent{{Length: 512, Flags: 3}, {Length: 512}, {Length: 1024, Flags: 2}}},
		{"hole within a block", []backend.Extent{long(600), gap(300), long(1148)}, 2048, 512, 9, []wire.Extent{{Length: 2048}}},
		{"many within a block", []backend.Extent{gap(100), long(100), gap(100), long(100), gap(1648)}, 2048, 512, 9, []wire.Extent{{Length: 512}, {Length: 1536, Flags: 3}}},
		{"less than a block is known", []backend.Extent{gap(100)}, 2048, 512, 9, []wire.Extent{{Length: 512}}},
		{"one is allowed, and changes in its block", []backend.Extent{gap(100), long(1948)}, 2048, 512, 1, []wire.Extent{{Length: 2048}}},
		{"cut to the limit", []backend.Extent{data, hole, data}, 30, 1, 2, []wire.Extent{{Length: 10}, {Length: 10, Flags: 3}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := mergeExtents(tt.found, tt.length, tt.block, tt.limit)
			if len(got) != len(tt.want) {
				t.Fatalf("%v, not %v", got, tt.want)
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Errorf("%v, not %v", got, tt.want)
				}
			}
		})
	}
}
