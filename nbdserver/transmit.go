package nbdserver

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// transmit reads requests ("Transmission") until the client leaves or is made
// to, and returns why. Requests run in parallel and are answered as they
// complete.
func (c *Conn) transmit() error {
	for {
		req, err := c.next()
		if err != nil {
			return err
		}
		c.requests.Add(1)
		if req.Command == wire.CmdDisc {
			return errLeft
		}
		no, err := c.admit(&req)
		if err != nil {
			return err
		}
		if no != nil {
			c.count(req, no.errno)
			c.refuse(req, no)
			continue
		}
		if err := c.throttle(req); err != nil {
			return err
		}
		if err := c.awaitResume(); err != nil {
			return err
		}
		if err := c.begin(req); err != nil {
			return err
		}
		var data []byte
		if req.Command == wire.CmdRead || req.Command == wire.CmdWrite {
			data = getBuffer(int(req.Length))
		}
		if req.Command == wire.CmdWrite {
			if err := c.readPayload(data); err != nil {
				c.end(req, data)
				return gone(err)
			}
		}
		go c.handle(req, data, time.Now())
	}
}

// next waits for a request.
func (c *Conn) next() (wire.Request, error) {
	c.mu.Lock()
	c.idle = !c.leaving
	leaving := c.leaving
	c.mu.Unlock()
	if leaving {
		return wire.Request{}, errDrained
	}
	b, err := c.peek()
	c.mu.Lock()
	c.idle = false
	leaving = c.leaving
	c.mu.Unlock()
	// A request that has come, but was not begun, is not in flight: the client
	// gets no answer and repeats it when it is connected again.
	if leaving {
		return wire.Request{}, errDrained
	}
	if err != nil {
		if len(b) > 0 {
			return wire.Request{}, gone(io.ErrUnexpectedEOF)
		}
		return wire.Request{}, gone(err)
	}
	var req wire.Request
	if len(b) == wire.ExtendedRequestSize {
		req, err = wire.ParseExtendedRequest([wire.ExtendedRequestSize]byte(b))
	} else if c.extended {
		err = errors.New("a request without extended headers, which were negotiated")
	} else {
		req, err = wire.ParseRequest([wire.RequestSize]byte(b))
	}
	if err != nil {
		return req, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	_, err = c.br.Discard(len(b))
	return req, err
}

// peek waits for the bytes of a request. It asks for the longer form only of a
// client that has begun one: another would be waited for without end.
func (c *Conn) peek() ([]byte, error) {
	b, err := c.br.Peek(wire.RequestSize)
	if err == nil && c.extended && wire.IsExtendedRequest(b) {
		b, err = c.br.Peek(wire.ExtendedRequestSize)
	}
	return b, err
}

// gone names the ways in which a read from a client ends.
func gone(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w in the middle of a request", errGone)
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return errGone
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errDrained
	}
	return fmt.Errorf("%w: %w", errGone, err)
}

func changes(c wire.Command) bool {
	return c == wire.CmdWrite || c == wire.CmdTrim || c == wire.CmdWriteZeroes
}

// begin takes a place among the requests in flight, and the memory for the
// payload. While there is none, nothing more is read from the client.
func (c *Conn) begin(r wire.Request) error {
	select {
	case c.slots <- struct{}{}:
	case <-c.ctx.Done():
		return errGone
	}
	if err := c.hold(r); err != nil {
		<-c.slots
		return err
	}
	c.inFlight.Add(1)
	c.srv.inFlight.Add(1)
	return nil
}

func (c *Conn) end(r wire.Request, data []byte) {
	putBuffer(data)
	c.letGo(r)
	<-c.slots
	c.srv.inFlight.Add(-1)
	c.inFlight.Done()
}

// payload is the number of bytes that a request moves, one way or the other.
func payload(r wire.Request) int64 {
	if r.Command == wire.CmdRead || r.Command == wire.CmdWrite {
		return int64(r.Length)
	}
	return 0
}

// handle does one request, which had been read at the time given, and answers it.
func (c *Conn) handle(r wire.Request, data []byte, read time.Time) {
	defer c.end(r, data)
	defer c.recoverPanic()
	defer c.export.observe(r.Command, read)
	extents, err := c.do(r, data)
	c.count(r, errnoOf(err))
	if err != nil {
		c.logFailed(r, err)
		c.refuse(r, &refusal{errno: errnoOf(err), why: err.Error()})
		return
	}
	c.answer(r, data, extents)
}

// do does what a request asks for. The extents are the answer to a block status
// request, and of a read the parts of its answer.
//
// A flush needs no place among the calls into the Backend: there is one at a time,
// and if those who wait for it had one each, reads would wait for it too.
func (c *Conn) do(r wire.Request, data []byte) (extents []wire.Extent, err error) {
	if r.Command != wire.CmdFlush {
		extents, err = c.call(r, data)
	} else {
		err = c.ctx.Err()
	}
	flush := r.Command == wire.CmdFlush || r.Flags&wire.FlagFUA != 0 && changes(r.Command)
	if err == nil && flush && !c.export.info.ReadOnly {
		err = c.export.flusher.Flush(c.ctx)
	}
	return extents, err
}

// call calls the Backend when the request's turn has come.
func (c *Conn) call(r wire.Request, data []byte) (extents []wire.Extent, err error) {
	select {
	case c.export.work <- struct{}{}:
		defer func() { <-c.export.work }()
	case <-c.ctx.Done():
	}
	if err := c.ctx.Err(); err != nil { // also when its turn came at the same time
		return nil, err
	}
	b := c.export.Backend
	switch r.Command {
	case wire.CmdRead:
		extents, err = c.readData(r, data)
	case wire.CmdWrite:
		err = b.WriteAt(c.ctx, data, r.Offset)
	case wire.CmdTrim:
		err = b.Trim(c.ctx, r.Offset, r.Length)
	case wire.CmdWriteZeroes:
		var how backend.ZeroFlags
		if r.Flags&wire.FlagNoHole == 0 {
			how |= backend.MayTrim
		}
		if r.Flags&wire.FlagFastZero != 0 {
			how |= backend.Fast
		}
		err = b.WriteZeroes(c.ctx, r.Offset, r.Length, how)
	case wire.CmdCache:
		err = b.Cache(c.ctx, r.Offset, r.Length)
	case wire.CmdBlockStatus:
		extents, err = c.blockStatus(r)
	}
	return extents, err
}
