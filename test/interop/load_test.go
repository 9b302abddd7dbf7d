package interop

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What each owner of a load has, and how many requests of it are under way.
const (
	loadBlock  = 4096
	loadBlocks = 256
	loadRegion = loadBlock * loadBlocks
	loadDepth  = 16
)

// load is work with verification: each of its owners has a part of a volume
// for itself, writes numbered blocks there, reads them back and flushes, many
// requests at a time, and knows what every read must find.
type load struct {
	s      *server
	owners []*owner

	requests atomic.Int64 // that were answered
}

// owner is one client of a load. What it knows outlives its connections.
type owner struct {
	l          *load
	number     uint64
	export     string
	offset     uint64 // of its region
	transport  string
	structured bool
	versions   [loadBlocks]uint64 // as acknowledged; 0 is a block of zeroes
}

// newLoad makes n owners for each of the exports, over TCP and a unix socket,
// with simple and structured replies.
func newLoad(s *server, n int, exports ...string) *load {
	l := &load{s: s}
	for _, export := range exports {
		for i := range n {
			o := &owner{l: l, number: uint64(len(l.owners)), export: export, offset: uint64(i) * loadRegion, transport: "tcp", structured: i%2 == 0}
			if i%3 == 2 {
				o.transport = "unix"
			}
			l.owners = append(l.owners, o)
		}
	}
	return l
}

// during keeps the load up while something is done, then stops it and has each
// owner read back everything that it ever wrote. No request may fail.
func (l *load) during(t *testing.T, something func()) {
	t.Helper()
	stop := make(chan struct{})
	var all sync.WaitGroup
	for _, o := range l.owners {
		all.Go(func() {
			if err := o.work(stop); err != nil {
				t.Errorf("client %d of the load, at %d of %s: %v", o.number, o.offset, o.export, err)
			}
		})
	}
	func() {
		defer all.Wait()
		defer close(stop)
		l.progress(t)
		something()
		l.progress(t)
	}()
}

// progress waits until the load has done some work more.
func (l *load) progress(t *testing.T) {
	t.Helper()
	enough := l.requests.Load() + 100*int64(len(l.owners))
	eventually(t, "the load goes on", func() bool { return t.Failed() || l.requests.Load() >= enough })
}

// content of a block at a version.
func (o *owner) content(block, version uint64) []byte {
	if version == 0 {
		return make([]byte, loadBlock)
	}
	return bytes.Repeat(pack(o.number<<48|block<<32|version), loadBlock/8)
}

// pending is a request that has no answer yet.
type pending struct {
	cmd     uint16
	version uint64 // that is written, or must be read
}

const flushCookie = loadBlocks // behind the blocks, which are the other cookies

func (o *owner) work(stop <-chan struct{}) error {
	c, err := attach(o.l.s, o.transport, o.export, o.structured)
	if err != nil {
		return err
	}
	defer c.Close()
	replies := bufio.NewReader(c)
	flying := map[uint64]pending{}
	answer := func() error {
		cookie, data, err := readReply(replies, func(cookie uint64) (uint64, int) {
			if flying[cookie].cmd == cmdRead {
				return o.offset + cookie*loadBlock, loadBlock
			}
			return 0, 0
		})
		if err != nil {
			return err
		}
		p, ok := flying[cookie]
		if !ok {
			return fmt.Errorf("a reply to a request %d that isn't under way", cookie)
		}
		delete(flying, cookie)
		switch {
		case p.cmd == cmdWrite:
			o.versions[cookie] = p.version
		case p.cmd == cmdRead && !bytes.Equal(data, o.content(cookie, p.version)):
			return fmt.Errorf("block %d has %x..., not version %d", cookie, data[:16], p.version)
		}
		o.l.requests.Add(1)
		return nil
	}
	for {
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		select {
		case <-stop:
			for len(flying) > 0 {
				if err := answer(); err != nil {
					return err
				}
			}
			// Everything, and then the end.
			for block := range uint64(loadBlocks) {
				flying[block] = pending{cmdRead, o.versions[block]}
				if _, err := c.Write(request(0, cmdRead, block, o.offset+block*loadBlock, loadBlock)); err != nil {
					return err
				}
				if err := answer(); err != nil {
					return err
				}
			}
			_, err := c.Write(request(0, cmdDisc, 0, 0, 0))
			return err
		default:
		}
		for len(flying) < loadDepth {
			if _, err := c.Write(o.next(flying)); err != nil {
				return err
			}
		}
		if err := answer(); err != nil {
			return err
		}
	}
}

// next makes a request at random, of a block for which none is under way.
func (o *owner) next(flying map[uint64]pending) []byte {
	for {
		block, what := rand.Uint64N(loadBlocks), rand.IntN(10)
		if what == 0 {
			block = flushCookie
		}
		if _, busy := flying[block]; busy {
			continue
		}
		at := o.offset + block*loadBlock
		switch {
		case what == 0:
			flying[block] = pending{cmd: cmdFlush}
			return request(0, cmdFlush, block, 0, 0)
		case what < 5:
			flying[block] = pending{cmdRead, o.versions[block]}
			return request(0, cmdRead, block, at, loadBlock)
		}
		version := o.versions[block] + 1
		flying[block] = pending{cmdWrite, version}
		return append(request(uint16(what%2)*flagFUA, cmdWrite, block, at, loadBlock), o.content(block, version)...)
	}
}

// checkFile looks for all that was acknowledged in the file of an export.
func (l *load) checkFile(t *testing.T, export, path string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range l.owners {
		if o.export != export {
			continue
		}
		for block, version := range o.versions {
			at := o.offset + uint64(block)*loadBlock
			if !bytes.Equal(got[at:at+loadBlock], o.content(uint64(block), version)) {
				t.Fatalf("block %d of client %d isn't version %d in the file", block, o.number, version)
			}
		}
	}
}
