package nbdserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"go.uber.org/zap"

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
		if e, why := c.check(req); e != 0 {
			// The payload of a write comes whether it is wanted or not.
			if err := discard(c.br, req.PayloadLength()); err != nil {
				return gone(err)
			}
			c.export.count(req.Command, true)
			c.answerError(req, e, why)
			continue
		}
		if err := c.throttle(req); err != nil {
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
		go c.handle(req, data)
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
	b, err := c.br.Peek(wire.RequestSize)
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
	req, err := wire.ParseRequest([wire.RequestSize]byte(b))
	if err != nil {
		return req, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	_, err = c.br.Discard(wire.RequestSize)
	return req, err
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

func discard(r io.Reader, n uint64) error {
	_, err := io.CopyN(io.Discard, r, int64(n))
	return err
}

// allowed are the flags that each command may carry. FUA is good for every
// command, whether or not it writes ("Command flags").
var allowed = map[wire.Command]wire.CommandFlags{
	wire.CmdRead:        wire.FlagFUA | wire.FlagDF,
	wire.CmdWrite:       wire.FlagFUA,
	wire.CmdFlush:       wire.FlagFUA,
	wire.CmdTrim:        wire.FlagFUA,
	wire.CmdWriteZeroes: wire.FlagFUA | wire.FlagNoHole,
	wire.CmdBlockStatus: wire.FlagFUA | wire.FlagReqOne,
}

// check tells what is wrong with a request before anything is allocated or
// done for it: an error of the protocol and its reason in words.
func (c *Conn) check(r wire.Request) (wire.Errno, string) {
	c.mu.Lock()
	refusing := c.refusing
	c.mu.Unlock()
	if refusing {
		return wire.ESHUTDOWN, "the server is shutting down"
	}
	flags, known := allowed[r.Command]
	if !known {
		return wire.EINVAL, fmt.Sprintf("%s is not supported", r.Command)
	}
	if bad := r.Flags &^ flags; bad != 0 {
		return wire.EINVAL, fmt.Sprintf("flags %#x are not allowed with %s", uint16(bad), r.Command)
	}
	if r.Flags&wire.FlagDF != 0 && !c.structured {
		return wire.EINVAL, "the flag DF needs structured replies"
	}
	if r.Command == wire.CmdFlush {
		if r.Offset != 0 || r.Length != 0 {
			return wire.EINVAL, "a flush has no offset and no length"
		}
		return 0, ""
	}
	if c.export.info.ReadOnly && changes(r.Command) {
		return wire.EPERM, "the export is read-only"
	}
	if r.Command == wire.CmdBlockStatus && (c.allocation == nil || !c.structured) {
		return wire.EINVAL, "no metadata context was negotiated for this export"
	}
	if r.Length == 0 {
		return wire.EINVAL, "the length is 0"
	}
	if (r.Command == wire.CmdRead || r.Command == wire.CmdWrite) && r.Length > wire.MaxBlock {
		return wire.EINVAL, fmt.Sprintf("the length %d is over the maximum block size %d", r.Length, wire.MaxBlock)
	}
	// Written so that it cannot wrap.
	if size := c.size; r.Length > size || r.Offset > size-r.Length {
		e := wire.EINVAL
		if r.Command == wire.CmdWrite || r.Command == wire.CmdWriteZeroes {
			e = wire.ENOSPC
		}
		return e, fmt.Sprintf("%d bytes from %d on reach beyond the end of the export at %d", r.Length, r.Offset, size)
	}
	return 0, ""
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

// handle does one request and answers it.
func (c *Conn) handle(r wire.Request, data []byte) {
	defer c.end(r, data)
	defer c.recoverPanic()
	extents, err := c.do(r, data)
	c.export.count(r.Command, err != nil)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			c.log.Error("request failed", zap.Stringer("command", r.Command), zap.String("export", c.export.Name),
				zap.Uint64("offset", r.Offset), zap.Uint64("length", r.Length), zap.Error(err))
		}
		c.answerError(r, errnoOf(err), err.Error())
		return
	}
	switch r.Command {
	case wire.CmdRead:
		c.read.Add(r.Length)
		c.export.read.Add(r.Length)
	case wire.CmdWrite:
		c.written.Add(r.Length)
		c.export.written.Add(r.Length)
	}
	c.answer(r, data, extents)
}

// do does what a request asks for, when its turn has come.
func (c *Conn) do(r wire.Request, data []byte) (extents []wire.Extent, err error) {
	select {
	case c.srv.work <- struct{}{}:
		defer func() { <-c.srv.work }()
	case <-c.ctx.Done():
		return nil, c.ctx.Err()
	}
	b := c.export.Backend
	switch r.Command {
	case wire.CmdRead:
		err = b.ReadAt(c.ctx, data, r.Offset)
	case wire.CmdWrite:
		err = b.WriteAt(c.ctx, data, r.Offset)
	case wire.CmdTrim:
		err = b.Trim(c.ctx, r.Offset, r.Length)
	case wire.CmdWriteZeroes:
		var how backend.ZeroFlags
		if r.Flags&wire.FlagNoHole == 0 {
			how |= backend.MayTrim
		}
		err = b.WriteZeroes(c.ctx, r.Offset, r.Length, how)
	case wire.CmdBlockStatus:
		extents, err = c.blockStatus(r)
	}
	flush := r.Command == wire.CmdFlush || r.Flags&wire.FlagFUA != 0 && changes(r.Command)
	if err == nil && flush && !c.export.info.ReadOnly {
		err = c.export.flusher.Flush(c.ctx)
	}
	return extents, err
}
