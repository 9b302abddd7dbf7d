package nbdserver

import (
	"errors"
	"io"
	"net"
	"slices"
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
)

// progress tells whether a client keeps the server waiting.
type progress struct {
	waiting atomic.Int32 // reads of payload and writes of replies under way
	last    atomic.Int64 // when one began or was through with a piece, on the clock of the connection
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
	if now.Sub(s.stallChecked) < stallCheck {
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

// write sends the parts of a reply, one after another.
func (c *Conn) write(parts [][]byte) error {
	c.beginIO()
	defer c.endIO()
	for len(parts) > 0 {
		var bufs net.Buffers // a piece
		room := piece
		for room > 0 && len(parts) > 0 {
			n := min(len(parts[0]), room)
			if n > 0 {
				bufs = append(bufs, parts[0][:n])
				room -= n
			}
			if parts[0] = parts[0][n:]; len(parts[0]) == 0 {
				parts = parts[1:]
			}
		}
		if n := piece - room; c.joins(n) {
			bufs = net.Buffers{slices.Concat(bufs...)}
		}
		if _, err := bufs.WriteTo(c.nc); err != nil {
			return err
		}
		c.moved()
	}
	return nil
}
