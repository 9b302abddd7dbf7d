package backendtest

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// noise returns n bytes that are the same for the same seed. None of them is
// zero, so that a byte that was zeroed or left out shows.
func noise(seed uint64, n int) []byte {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	p := make([]byte, n)
	rand.NewChaCha8(key).Read(p)
	i := 0
	for ; i+8 <= n; i += 8 {
		binary.NativeEndian.PutUint64(p[i:], binary.NativeEndian.Uint64(p[i:])|0x0101010101010101)
	}
	for ; i < n; i++ {
		p[i] |= 1
	}
	return p
}

// isZero tells whether all bytes are zero.
func isZero(p []byte) bool { return bytes.Count(p, []byte{0}) == len(p) }

func write(t *testing.T, b backend.Backend, p []byte, off uint64) {
	t.Helper()
	if err := b.WriteAt(t.Context(), p, off); err != nil {
		t.Fatalf("WriteAt of %d bytes at %d: %v", len(p), off, err)
	}
}

// read reads n bytes into a buffer full of garbage.
func read(t *testing.T, b backend.Backend, n int, off uint64) []byte {
	t.Helper()
	p := bytes.Repeat([]byte{0xa5}, n)
	if err := b.ReadAt(t.Context(), p, off); err != nil {
		t.Fatalf("ReadAt of %d bytes at %d: %v", n, off, err)
	}
	return p
}

func writeZeroes(t *testing.T, b backend.Backend, off, length uint64, flags backend.ZeroFlags) {
	t.Helper()
	if err := b.WriteZeroes(t.Context(), off, length, flags); err != nil {
		t.Fatalf("WriteZeroes of %d bytes at %d, flags=%v: %v", length, off, flags, err)
	}
}

func trim(t *testing.T, b backend.Backend, off, length uint64) {
	t.Helper()
	if err := b.Trim(t.Context(), off, length); err != nil {
		t.Fatalf("Trim of %d bytes at %d: %v", length, off, err)
	}
}

func cache(t *testing.T, b backend.Backend, off, length uint64) {
	t.Helper()
	if err := b.Cache(t.Context(), off, length); err != nil {
		t.Fatalf("Cache of %d bytes at %d: %v", length, off, err)
	}
}

// expect fails the test unless the volume reads as want from off on.
func expect(t *testing.T, b backend.Backend, want []byte, off uint64) {
	t.Helper()
	got := read(t, b, len(want), off)
	if bytes.Equal(got, want) {
		return
	}
	wrong, first := 0, -1
	for i := range got {
		if got[i] != want[i] {
			if first < 0 {
				first = i
			}
			wrong++
		}
	}
	t.Fatalf("%d bytes at %d: %d are wrong, the first at %d: %#02x instead of %#02x",
		len(want), off, wrong, off+uint64(first), got[first], want[first])
}

// expectZeroes fails the test unless the range reads as zeroes.
func expectZeroes(t *testing.T, b backend.Backend, off, length uint64) {
	t.Helper()
	const piece = 1 << 20
	zeroes := make([]byte, min(length, piece))
	for length > 0 {
		n := min(length, piece)
		expect(t, b, zeroes[:n], off)
		off, length = off+n, length-n
	}
}
