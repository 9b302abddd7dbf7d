// Package backend says what an export is made of. A Backend is a flat range of
// bytes with the operations of the NBD protocol; its kinds are in the packages
// below this one, and package backendtest is the suite that all of them pass.
package backend

import (
	"context"
	"errors"
)

// Errors that a Backend returns, wrapped or as they are. Errors of the
// operating system (syscall.ENOSPC, syscall.EIO, ...) are passed on as they
// are; the server maps them to the errors of the protocol, and any other error
// to NBD_EIO.
var (
	// ErrReadOnly is returned by a write to a Backend that was opened for
	// reading. The server never lets one through; it is a second lock.
	ErrReadOnly = errors.New("the volume is read-only")
	// ErrShrunk is returned by a read that finds less data than the size that
	// the Backend had when it was opened.
	ErrShrunk = errors.New("the volume is shorter than it was when it was opened")
	// ErrNotFast is returned by WriteZeroes with Fast where zeroing would be no
	// faster than writing zeroes. Nothing has been changed then, as far as the
	// storage can tell beforehand.
	ErrNotFast = errors.New("zeroing this range would be no faster than writing zeroes")
)

// Info is what a Backend tells about itself. Of a Resizer the size may change
// while it is open, and nothing else.
type Info struct {
	// Size of the volume in bytes.
	Size uint64
	// ReadOnly says that everything that would change the volume fails.
	ReadOnly bool
	// Rotational says that the volume lies on a spinning disk.
	Rotational bool
	// PreferredBlockSize is the size and alignment in bytes at which requests
	// are cheapest: a power of two from 512 to 32 MiB.
	PreferredBlockSize uint32
	// MinimumBlockSize is what offsets and lengths of requests must be a
	// multiple of, in bytes: a power of two from 1 to 64 KiB; 0 means 1. The
	// server refuses other requests before they get here.
	MinimumBlockSize uint32
	// FastZero says that WriteZeroes can tell beforehand whether it is fast, so
	// that clients may ask for that (NBD_FLAG_SEND_FAST_ZERO).
	FastZero bool
}

// ZeroFlags say how WriteZeroes may go about it.
type ZeroFlags uint8

// Flags of WriteZeroes.
const (
	// MayTrim allows the range to become a hole; without it the space stays,
	// or becomes, allocated, as far as the storage can do that.
	MayTrim ZeroFlags = 1 << iota
	// Fast asks for ErrNotFast, at once, where the storage would have to write
	// zeroes (NBD_CMD_FLAG_FAST_ZERO). Only for a Backend with Info.FastZero.
	Fast
)

// Extent is a range of a volume with one allocation status.
type Extent struct {
	// Length in bytes, never 0.
	Length uint64
	// Hole says that nothing is allocated for the range (NBD_STATE_HOLE).
	Hole bool
	// Zero says that the range reads as zeroes (NBD_STATE_ZERO).
	Zero bool
}

// Backend is one open volume. All methods but Close may be called at the same
// time from any number of goroutines. The caller has checked that off and
// length lie within the size and that length is not 0.
//
// An operation has taken effect when it returns nil: a read that starts later
// sees it. It is on stable storage after a Flush that started later.
// A canceled context may end an operation early with the context's error; what
// a write had done by then is undefined, as it is for a failed write.
type Backend interface {
	// Info describes the volume.
	Info() Info
	// ReadAt fills p from off or fails.
	ReadAt(ctx context.Context, p []byte, off uint64) error
	// WriteAt writes all of p at off or fails. It doesn't keep p.
	WriteAt(ctx context.Context, p []byte, off uint64) error
	// Flush puts everything that was completed before it on stable storage.
	// When it fails, nobody knows which writes were lost: the server treats
	// every later Flush of the volume as failed too.
	Flush(ctx context.Context) error
	// Trim says that the content of a range is no longer needed. It is a hint:
	// the range may keep its content in whole or in part.
	Trim(ctx context.Context, off, length uint64) error
	// WriteZeroes makes a range read as zeroes.
	WriteZeroes(ctx context.Context, off, length uint64, flags ZeroFlags) error
	// Cache says that a range will be read soon. It is a hint: it may do
	// nothing, and doesn't wait until the range is in memory (NBD_CMD_CACHE).
	Cache(ctx context.Context, off, length uint64) error
	// Extents returns the allocation status of a range from off on: at least
	// one extent and at most max. Together they may fall short of length, and
	// never exceed it. A Backend that knows nothing returns one extent that is
	// neither a hole nor zero.
	Extents(ctx context.Context, off, length uint64, max int) ([]Extent, error)
	// Close releases the volume. It doesn't flush. It is called once, after
	// every other call has returned.
	Close() error
}

// Resizer is a Backend whose size may change while it is open.
type Resizer interface {
	// Resize finds out how large the volume is now and returns that: Info has
	// the new size from then on. Operations within the size that was true when
	// a connection began stay allowed; where the volume has become smaller they
	// fail (ErrShrunk, ENOSPC) and never make it larger again. It may be called
	// at the same time as every method but Close.
	Resize(ctx context.Context) (size uint64, err error)
}

// Scratch is a Backend that keeps what is written to it in a scratch, which is
// gone when it is closed.
type Scratch interface {
	// Scratch tells how many bytes the scratch holds and how many it may hold, 0
	// for no limit. It may be called at any time, after Close too.
	Scratch() (used, limit uint64)
	// ScratchRefused is how many writes have failed because the scratch held all that
	// it may, or its disk was full. It may be called at any time.
	ScratchRefused() uint64
}
