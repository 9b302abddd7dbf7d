package backendtest

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// opSize is the length of one operation in the stream that Model reads: its
// kind, three bytes of offset, three of length, one seed for the content.
const opSize = 8

// maxOps bounds what one stream may do.
const maxOps = 400

// Model does to a volume what a stream of operations says, does the same to a
// plain slice of what the volume held before, and compares the two. Any stream is valid: offsets and lengths
// are taken modulo what the volume allows, bytes after the last whole operation
// and operations after the 400th are ignored. The volume is at most 16 MiB
// large. It serves as the body of a fuzz test.
func Model(t *testing.T, b backend.Backend, ops []byte) {
	t.Helper()
	size := b.Info().Size
	if size > 16<<20 {
		t.Fatalf("a volume of %d bytes is too large for the model", size)
	}
	model := read(t, b, int(size), 0)
	ops = ops[:min(len(ops), maxOps*opSize)]
	for ; len(ops) >= opSize; ops = ops[opSize:] {
		off := uint64(binary.BigEndian.Uint32(ops[0:])&0xffffff) % size
		length := 1 + uint64(binary.BigEndian.Uint32(ops[3:])&0xffffff)%(size-off)
		end := off + length
		part := model[off:end]
		switch op := ops[0] % 8; op {
		case 0, 1:
			copy(part, noise(uint64(ops[7]), int(length)))
			write(t, b, part, off)
		case 2, 3:
			clear(part)
			writeZeroes(t, b, off, length, mayTrim(op == 2))
		case 4:
			trim(t, b, off, length)
			adopt(t, part, read(t, b, int(length), off), off)
		case 5:
			expect(t, b, part, off)
		case 6:
			checkExtents(t, b, model, off, length, 1+int(ops[7]))
		case 7:
			if err := b.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		from, to := off-min(off, 600), min(size, end+600)
		expect(t, b, model[from:to], from)
	}
	expect(t, b, model, 0)
	checkExtents(t, b, model, 0, size, 1<<20)
}

// checkExtents checks one answer of Extents against the known content.
func checkExtents(t *testing.T, b backend.Backend, model []byte, off, length uint64, limit int) {
	t.Helper()
	for _, e := range extents(t, b, off, length, limit) {
		if e.Zero && !isZero(model[off:off+e.Length]) {
			t.Fatalf("the extent of %d bytes at %d is said to be zero, and isn't", e.Length, off)
		}
		off += e.Length
	}
}

// ModelSize is a size in bytes, for the volume of Model, at which backends
// have a few whole pieces and a part of one.
const ModelSize = 300_001

// testModel runs Model with a few random streams.
func (k Kind) testModel(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			ops := noise(seed, 100*opSize)
			// noise has no even bytes; the kinds of operations need them.
			for i := range ops {
				ops[i] ^= byte(i*7+int(seed)) & 1
			}
			Model(t, k.open(t, ModelSize), ops)
		})
	}
}
