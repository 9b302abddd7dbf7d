package nbdserver

import (
	"errors"
	"io"
	"sync/atomic"
	"time"
)

const (
	// stallTimeout is how long somebody waits for memory before connections are
	// closed for that, and how long nothing has moved on those that are.
	stallTimeout = 10 * time.Second
	// stallCheck is the time between one such close and the next: it may have
	// been enough.
	stallCheck = time.Second
	// piece is how many bytes of payload are moved at a time. A connection
	// moves when one of them is through: under pressure, 256 KiB in 10 s is
	// slow enough to be closed.
	piece = 256 << 10
	// maxHeaders is more than the headers of a reply take, those of all the
	// parts of a read among them.
	maxHeaders = 4 << 10
)

// progress tells whether a client keeps the server waiting.
type progress struct {
	waiting atomic.Int32 // reads of payload and writes of replies under way
	last    atomic.Int64 // nanoseconds from c.since to when one began or was through with a piece
}

// beginIO and endIO are around what waits for the client. To begin counts as
// progress: the client is at fault from then on only.
func (c *Conn) beginIO() {
	c.moved()
	c.progress.waiting.Add(1)
}

func (c *Conn) endIO() { c.progress.waiting.Add(-1) }

func (c *Conn) moved() { c.progress.last.Store(int64(time.Since(c.since))) }

// stalledFor is how long the client has kept memory of the server, and let
// nothing move.
func (c *Conn) stalledFor() time.Duration {
	if c.held.Load() == 0 || c.progress.waiting.Load() == 0 {
		return 0
	}
	return time.Since(c.since) - time.Duration(c.progress.last.Load())
}

// closeStalled closes the connection that holds the most memory of those that
// have stalled for stallTimeout, and of equals the one that has stalled for
// longest, for the sake of one that has waited for memory for as long. A paused
// virtual machine may stall for hours without being in anybody's way, so it is
// no more than one, only then, and not those that hold too little to matter.
func (s *Server) closeStalled(waiting *Conn) {
	s.mu.Lock()
	now := time.Now()
	if s.pause.Load() != nil || now.Sub(s.stallChecked) < stallCheck {
		s.mu.Unlock()
		return
	}
	s.stallChecked = now
	var worst *Conn
	var most int64
	var longest time.Duration
	for c := range s.conns {
		d, held := c.stalledFor(), c.held.Load()
		if d < stallTimeout || c == waiting {
			continue
		}
		if held > most || held == most && d > longest {
			worst, most, longest = c, held, d
		}
	}
	s.mu.Unlock()
	if worst != nil && worst.closeFor(errStalled) {
		s.stalled.Add(1)
	}
}

// readPayload fills p from the client.
func (c *Conn) readPayload(p []byte) error {
	c.beginIO()
	defer c.endIO()
	for len(p) > 0 {
		n, err := io.ReadFull(c.br, p[:min(len(p), piece)])
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		p = p[n:]
		c.moved()
	}
	return nil
}

// write sends the parts of a reply, one after another. c.writing is held.
func (c *Conn) write(parts [][]byte) error {
	c.beginIO()
	defer c.endIO()
	left := 0
	for _, p := range parts {
		left += len(p)
	}
	for left > 0 {
		// The last piece takes the rest: a read of 256 KiB is one call.
		n := left
		if left > piece+maxHeaders {
			n = piece
		}
		left -= n
		c.bufs = c.bufs[:0]
		for room := n; room > 0; {
			p := parts[0][:min(len(parts[0]), room)]
			if len(p) > 0 {
				c.bufs = append(c.bufs, p)
				room -= len(p)
			}
			if parts[0] = parts[0][len(p):]; len(parts[0]) == 0 {
				parts = parts[1:]
			}
		}
		if len(c.bufs) > 1 && c.joins(n) {
			c.record = c.record[:0]
			for _, p := range c.bufs {
				c.record = append(c.record, p...)
			}
			c.bufs = append(c.bufs[:0], c.record)
		}
		c.out = c.bufs // it is consumed, the array stays
		if _, err := c.out.WriteTo(c.nc); err != nil {
			return err
		}
		c.moved()
	}
	return nil
}
