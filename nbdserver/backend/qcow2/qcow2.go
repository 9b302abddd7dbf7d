// Package qcow2 exports the volume that a qcow2 image holds: an image of version 2
// or 3 that needs no other file, plain or compressed with zlib. It is only read.
//
// An image comes from anywhere. Nothing that it says is believed before it was
// compared with the size of its file; no file that it names is opened; and of its
// tables nothing is kept in memory: each read looks up what it needs, which is
// in the page cache.
package qcow2

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// Image is the volume in an image: a backend.Backend. Its methods but Close may
// be called at the same time, whatever their ranges.
type Image struct {
	header
	file     backend.Backend
	fileSize uint64
	info     backend.Info
	inflated cache
	// inflating has a place for each cluster that may be decompressed at a time.
	inflating chan struct{}
}

var _ backend.Backend = (*Image)(nil)

// ErrDamaged says that the tables of an image lead nowhere, or that compressed data
// isn't any. It is found when the range is used, not when the image is opened.
var ErrDamaged = errors.New("the qcow2 image is damaged or cut short: qemu-img check tells more")

// Open opens the image that another volume holds, the file. The file is only ever
// read, and must not change. The Image closes it in the end; if Open fails it is
// left to the caller. Internal snapshots are left out of account: the volume is
// the image's current state.
//
// The error begins with what the image is or has, so that its name can stand before it.
func Open(ctx context.Context, file backend.Backend) (*Image, error) {
	i := &Image{file: file, fileSize: file.Info().Size, inflating: make(chan struct{}, runtime.GOMAXPROCS(0))}
	first := make([]byte, min(i.fileSize, headerV3+8))
	if len(first) > 0 {
		if err := file.ReadAt(ctx, first, 0); err != nil {
			return nil, fmt.Errorf("can't be read: %w", err)
		}
	}
	var err error
	if i.header, err = parseHeader(first, i.fileSize); err != nil {
		return nil, err
	}
	i.info = backend.Info{
		Size:               i.size,
		ReadOnly:           true,
		Rotational:         file.Info().Rotational,
		PreferredBlockSize: max(file.Info().PreferredBlockSize, uint32(i.clusterSize())),
	}
	return i, nil
}

// Info implements backend.Backend.
func (i *Image) Info() backend.Info { return i.info }

// WriteAt implements backend.Backend: it fails.
func (i *Image) WriteAt(context.Context, []byte, uint64) error { return backend.ErrReadOnly }

// Flush implements backend.Backend. There is nothing to do.
func (i *Image) Flush(context.Context) error { return nil }

// Trim implements backend.Backend: it fails.
func (i *Image) Trim(context.Context, uint64, uint64) error { return backend.ErrReadOnly }

// WriteZeroes implements backend.Backend: it fails.
func (i *Image) WriteZeroes(context.Context, uint64, uint64, backend.ZeroFlags) error {
	return backend.ErrReadOnly
}

// Cache implements backend.Backend. It does nothing.
func (i *Image) Cache(context.Context, uint64, uint64) error { return nil }

// Close implements backend.Backend. It closes the file too.
func (i *Image) Close() error { return i.file.Close() }
