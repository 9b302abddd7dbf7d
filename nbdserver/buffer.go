package nbdserver

import (
	"math/bits"
	"sync"
	"unsafe"
)

// Payload buffers are kept for reuse by size, in powers of two from 4 KiB to
// wire.MaxBlock.
const minBuffer = 12 // log2

// buffers are of *byte, the first of a buffer: a pointer to a slice would be
// allocated for each buffer that is given back.
var buffers [26 - minBuffer]sync.Pool

// bufferSize is how many bytes a buffer of n bytes, 1 to wire.MaxBlock, takes.
func bufferSize(n int) int { return 1 << max(bits.Len(uint(n-1)), minBuffer) }

// getBuffer returns a buffer of n bytes, 1 to wire.MaxBlock, with any content.
func getBuffer(n int) []byte {
	i := max(bits.Len(uint(n-1)), minBuffer) - minBuffer
	if p, _ := buffers[i].Get().(*byte); p != nil {
		return unsafe.Slice(p, bufferSize(n))[:n]
	}
	return make([]byte, n, bufferSize(n))
}

// putBuffer gives a buffer of getBuffer back; nil is none.
func putBuffer(b []byte) {
	if b == nil {
		return
	}
	buffers[bits.Len(uint(cap(b)-1))-minBuffer].Put(unsafe.SliceData(b))
}
