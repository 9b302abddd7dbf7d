package nbdserver

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

const (
	// maxOptions is how many options a client may send before it must have
	// chosen an export, and maxPerExport how many more for each export: who
	// lists them all, as qemu-nbd --list does, asks for two things of each.
	maxOptions   = 32
	maxPerExport = 4
	// maxOption is the longest payload of an option that is looked at: a name
	// and a dozen of queries, each of the greatest length.
	maxOption = 64 << 10
	// maxSkip is the longest payload that is read over so that the negotiation
	// can go on. Behind a longer one the connection is closed.
	maxSkip = 1 << 20
)

// allocationID is the number by which base:allocation goes on the wire.
const allocationID = 1

// negotiate runs the handshake ("Newstyle negotiation") until the client has
// chosen an export. Any error ends the connection.
func (c *Conn) negotiate() error {
	if _, err := c.nc.Write(wire.AppendGreeting(nil, wire.FlagFixedNewstyle|wire.FlagNoZeroes)); err != nil {
		return err
	}
	var b [wire.ClientFlagsSize]byte
	if _, err := io.ReadFull(c.br, b[:]); err != nil {
		return err
	}
	c.greeted = true
	flags, err := wire.ParseClientFlags(b)
	if err != nil {
		return err
	}
	c.fixed = flags&wire.ClientFixedNewstyle != 0
	c.noZeroes = flags&wire.ClientNoZeroes != 0
	limit := maxOptions + maxPerExport*len(c.srv.Exports)
	for range limit {
		chosen, err := c.option()
		if chosen != nil {
			if c.allocation != chosen {
				c.allocation = nil // contexts hold for the export they were set for
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: more than %d options", errBadRequest, limit)
}

// option reads one option and answers it. It returns the export if the client
// has chosen one.
func (c *Conn) option() (*Export, error) {
	var b [wire.OptionHeaderSize]byte
	if _, err := io.ReadFull(c.br, b[:]); err != nil {
		return nil, err
	}
	h, err := wire.ParseOptionHeader(b)
	if err != nil {
		return nil, err
	}
	if !c.fixed && h.Option != wire.OptExportName {
		// Who didn't agree to the fixed newstyle can't read an answer.
		return nil, fmt.Errorf("%w: %s without the fixed newstyle", errBadRequest, h.Option)
	}
	if h.Length > maxOption {
		return nil, c.tooBig(h)
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(c.br, payload); err != nil {
		return nil, err
	}
	if h.Option == wire.OptExportName {
		return c.exportName(payload)
	}
	if h.Option == wire.OptAbort {
		// The client may be gone already; that is as well.
		_ = c.reply(h.Option, wire.RepAck, nil)
		return nil, errAborted
	}
	if c.srv.Phase() != Serving {
		return nil, c.fail(h.Option, wire.RepErrShutdown, "the server is shutting down")
	}
	if h.Option == wire.OptStartTLS {
		return nil, c.startTLS(payload)
	}
	if c.tlsForced() {
		return nil, c.fail(h.Option, wire.RepErrTLSReqd, "TLS must be started first")
	}
	switch h.Option {
	case wire.OptList:
		return nil, c.list(payload)
	case wire.OptInfo, wire.OptGo:
		return c.info(h.Option, payload)
	case wire.OptStructuredReply:
		if len(payload) != 0 {
			return nil, c.fail(h.Option, wire.RepErrInvalid, "the option has no payload")
		}
		if c.extended {
			return nil, c.fail(h.Option, wire.RepErrExtHeaderReqd, "extended headers are negotiated, which go before structured replies")
		}
		c.structured = true
		return nil, c.reply(h.Option, wire.RepAck, nil)
	case wire.OptExtendedHeaders:
		if len(payload) != 0 {
			return nil, c.fail(h.Option, wire.RepErrInvalid, "the option has no payload")
		}
		c.structured, c.extended = true, true
		return nil, c.reply(h.Option, wire.RepAck, nil)
	case wire.OptListMetaContext, wire.OptSetMetaContext:
		return nil, c.metaContext(h.Option, payload)
	}
	return nil, c.fail(h.Option, wire.RepErrUnsup, h.Option.String()+" is not supported")
}

// tooBig answers an option whose payload is too long, and reads over it where
// that can be done in reasonable time.
func (c *Conn) tooBig(h wire.OptionHeader) error {
	if h.Option == wire.OptExportName {
		return fmt.Errorf("%w: an export name of %d bytes", errBadRequest, h.Length)
	}
	if h.Option == wire.OptSetMetaContext {
		c.allocation = nil // as when it fails in any other way
	}
	typ := wire.RepErrTooBig
	switch {
	case c.srv.Phase() != Serving:
		typ = wire.RepErrShutdown
	case c.tlsForced() && h.Option != wire.OptStartTLS:
		typ = wire.RepErrTLSReqd
	}
	err := c.fail(h.Option, typ, fmt.Sprintf("an option of %d bytes; %d are allowed", h.Length, maxOption))
	if err != nil {
		return err
	}
	if h.Length > maxSkip {
		return fmt.Errorf("%w: an option of %d bytes", errBadRequest, h.Length)
	}
	_, err = c.br.Discard(int(h.Length))
	return err
}

func (c *Conn) reply(opt wire.Option, typ wire.OptionReply, payload []byte) error {
	_, err := c.nc.Write(wire.AppendOptionReply(nil, opt, typ, payload))
	return err
}

// fail answers an option with an error and its reason in words.
func (c *Conn) fail(opt wire.Option, typ wire.OptionReply, message string) error {
	return c.reply(opt, typ, []byte(wire.CutString(message)))
}

// exportName answers the oldest way to choose an export, in which the only way
// to say no is to hang up. A client that has come this way knows nothing of
// block sizes; it may try, and requests that aren't aligned fail ("Size
// constraints").
func (c *Conn) exportName(payload []byte) (*Export, error) {
	name, err := wire.ParseExportName(payload)
	if err != nil {
		return nil, err
	}
	if c.extended {
		return nil, fmt.Errorf("%w: %s after extended headers were negotiated", errBadRequest, wire.OptExportName)
	}
	if c.srv.Phase() != Serving {
		return nil, fmt.Errorf("export %q refused: %w", name, ErrServerClosed)
	}
	if c.tlsForced() {
		return nil, fmt.Errorf("client asked for an export %q before TLS", name)
	}
	e := c.lookup(name)
	if e == nil {
		return nil, fmt.Errorf("client asked for an export %q that isn't there, or not without TLS", name)
	}
	if err := c.srv.choose(c, e); err != nil {
		return nil, fmt.Errorf("export %q refused: %w", name, err)
	}
	c.size = c.sizeOf(e)
	c.accept(e)
	if _, err := c.nc.Write(wire.AppendExportName(nil, c.size, c.flags(e), c.noZeroes)); err != nil {
		return nil, err
	}
	return e, nil
}

// accept makes the connection a client's, just before the client learns of it: a
// drain that begins between the two must not close it as one that negotiates, and
// the client must count already when it, or another one, does something next.
func (c *Conn) accept(e *Export) {
	c.export = e
	c.mu.Lock()
	c.serving = true
	c.mu.Unlock()
	c.enter(StateConnected)
}

// flags are the transmission flags of an export for this client.
func (c *Conn) flags(e *Export) wire.TransmissionFlags {
	f := e.flags(c.structured)
	if c.extended && c.allocation == e {
		f |= wire.BlockStatusPayload
	}
	return f
}

func (c *Conn) list(payload []byte) error {
	if len(payload) != 0 {
		return c.fail(wire.OptList, wire.RepErrInvalid, "the option has no payload")
	}
	for _, e := range c.srv.Exports {
		if !c.mayUse(e) || !c.srv.permits(c, e) {
			continue
		}
		if err := c.reply(wire.OptList, wire.RepServer, wire.AppendServer(nil, e.Name, e.Description)); err != nil {
			return err
		}
	}
	return c.reply(wire.OptList, wire.RepAck, nil)
}

// info answers OptInfo and OptGo; they differ in what comes after.
func (c *Conn) info(opt wire.Option, payload []byte) (*Export, error) {
	r, err := wire.ParseInfoRequest(payload)
	if err != nil {
		return nil, c.fail(opt, wire.RepErrInvalid, err.Error())
	}
	e := c.lookup(r.Name)
	if e == nil && c.tlsHides() {
		return nil, c.fail(opt, wire.RepErrTLSReqd, fmt.Sprintf("no export that is served without TLS is named %q", r.Name))
	}
	if e == nil {
		return nil, c.fail(opt, wire.RepErrUnknown, fmt.Sprintf("no export is named %q", r.Name))
	}
	blockSize := wire.AppendInfoBlockSize(nil, e.blockSize(), max(e.info.PreferredBlockSize, e.blockSize()), wire.MaxBlock)
	if e.blockSize() > 1 && !slices.Contains(r.Infos, wire.InfoBlockSize) {
		if err := c.reply(opt, wire.RepInfo, blockSize); err != nil {
			return nil, err
		}
		return nil, c.fail(opt, wire.RepErrBlockSizeReqd, fmt.Sprintf("the export has blocks of %d bytes: ask for NBD_INFO_BLOCK_SIZE", e.blockSize()))
	}
	if opt == wire.OptGo {
		err = c.srv.choose(c, e)
	} else if !c.srv.permits(c, e) {
		err = errors.New(deniedExport.words())
	}
	if err != nil {
		return nil, c.fail(opt, wire.RepErrPolicy, err.Error())
	}
	c.size = c.sizeOf(e)
	items := [][]byte{wire.AppendInfoExport(nil, c.size, c.flags(e))}
	seen := map[wire.Info]bool{}
	for _, i := range r.Infos {
		if seen[i] {
			continue
		}
		seen[i] = true
		switch i {
		case wire.InfoName:
			items = append(items, wire.AppendInfoString(nil, i, e.Name))
		case wire.InfoDescription:
			if e.Description != "" {
				items = append(items, wire.AppendInfoString(nil, i, e.Description))
			}
		case wire.InfoBlockSize:
			items = append(items, blockSize)
		}
	}
	for _, item := range items {
		if err := c.reply(opt, wire.RepInfo, item); err != nil {
			return nil, err
		}
	}
	if opt == wire.OptGo {
		c.accept(e)
	}
	if err := c.reply(opt, wire.RepAck, nil); err != nil {
		return nil, err
	}
	if opt == wire.OptInfo {
		return nil, nil
	}
	return e, nil
}

// metaContext answers OptListMetaContext and OptSetMetaContext. There is one
// context, base:allocation; a query for any other has no match, which is no
// error.
func (c *Conn) metaContext(opt wire.Option, payload []byte) error {
	// To set replaces what was set before, also when it fails.
	set := opt == wire.OptSetMetaContext
	if set {
		c.allocation = nil
	}
	r, err := wire.ParseMetaContextRequest(payload)
	if err == nil && !c.structured {
		err = errors.New("structured replies must be negotiated first")
	}
	if err != nil {
		return c.fail(opt, wire.RepErrInvalid, err.Error())
	}
	e := c.lookup(r.Name)
	if e == nil {
		return c.fail(opt, wire.RepErrUnknown, fmt.Sprintf("no export is named %q", r.Name))
	}
	if !c.srv.permits(c, e) {
		return c.fail(opt, wire.RepErrPolicy, deniedExport.words())
	}
	// To list, no query means everything, and a namespace alone is a wildcard;
	// to set, each query names one context.
	match := !set && len(r.Queries) == 0
	for _, q := range r.Queries {
		match = match || q == wire.BaseAllocation || !set && q == "base:"
	}
	if set && match {
		c.allocation = e
	}
	if match {
		id := uint32(allocationID)
		if !set {
			id = 0 // it means nothing in a list
		}
		if err := c.reply(opt, wire.RepMetaContext, wire.AppendMetaContext(nil, id, wire.BaseAllocation)); err != nil {
			return err
		}
	}
	return c.reply(opt, wire.RepAck, nil)
}
