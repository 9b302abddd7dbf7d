package nbdserver

import (
	"math/bits"
	"sync"
)

// Payload buffers are kept for reuse by size, in powers of two from 4 KiB to
// wire.MaxBlock.
const minBuffer = 12 // log2

var buffers [26 - minBuffer]sync.Pool // of *[]byte

// bufferSize is how many bytes a buffer of n bytes, 1 to wire.MaxBlock, takes.
func bufferSize(n int) int { return 1 << max(bits.Len(uint(n-1)), minBuffer) }

// getBuffer returns a buffer of n bytes, 1 to wire.MaxBlock, with any content.
func getBuffer(n int) []byte {
	i := max(bits.Len(uint(n-1)), minBuffer) - minBuffer
	if p, _ := buffers[i].Get().(*[]byte); p != nil {
		return (*p)[:n]
	}
	return make([]byte, n, bufferSize(n))
}

// putBuffer gives a buffer of getBuffer back; nil is none.
func putBuffer(b []byte) {
	if b == nil {
		return
	}
	b = b[:cap(b)]
	buffers[bits.Len(uint(cap(b)-1))-minBuffer].Put(&b)
}
