package qcow2

import (
	"bytes"
	"compress/flate"
	"context"
	"fmt"
	"io"
	"sync"
)

// inflate returns the content of a compressed cluster, which nobody may change.
//
// It takes memory for the packed cluster, which has at most twice the size of a
// cluster, and for the content, which is read up to that size and no further: 6 MiB
// for the largest clusters. As many are decompressed at a time as there are
// processors, so that requests can't take more together.
func (i *Image) inflate(ctx context.Context, q piece) ([]byte, error) {
	if b := i.inflated.get(q.host); b != nil {
		return b, nil
	}
	select {
	case i.inflating <- struct{}{}:
		defer func() { <-i.inflating }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if b := i.inflated.get(q.host); b != nil {
		return b, nil // somebody else was faster
	}
	packed := make([]byte, q.packed)
	if err := i.file.ReadAt(ctx, packed, q.host); err != nil {
		return nil, err
	}
	r := inflaters.Get().(io.Reader)
	defer inflaters.Put(r)
	if err := r.(flate.Resetter).Reset(bytes.NewReader(packed), nil); err != nil {
		return nil, err
	}
	content := make([]byte, i.clusterSize())
	if _, err := io.ReadFull(r, content); err != nil {
		return nil, fmt.Errorf("%w: the compressed cluster at %d of its file: %w", ErrDamaged, q.host, err)
	}
	i.inflated.put(q.host, content)
	return content, nil
}

// inflaters are used again: each takes more memory than a small cluster.
var inflaters = sync.Pool{New: func() any { return flate.NewReader(nil) }}

// cache keeps the clusters that were decompressed last: small reads one after the
// other would decompress each of them many times. It has up to 16 MiB.
type cache struct {
	mu       sync.Mutex
	clusters [8]struct {
		host    uint64 // where its packed form is in the file; never 0
		content []byte
	}
	next int
}

// get returns a cluster, or nil.
func (c *cache) get(host uint64) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.clusters {
		if e.host == host {
			return e.content
		}
	}
	return nil
}

// put puts a cluster in the place of the one that came first.
func (c *cache) put(host uint64, content []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clusters[c.next].host, c.clusters[c.next].content = host, content
	c.next = (c.next + 1) % len(c.clusters)
}
