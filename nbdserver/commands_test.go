package nbdserver

import (
	"context"
	"encoding/binary"
	"slices"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

func TestCache(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		s := newMemory(t, 1<<20)
		s.Exports[0].ReadOnly = readOnly
		r := record(s)
		c := dial(t, listen(t, s))
		c.begin(false)
		c.request(wire.FlagFUA, wire.CmdCache, 1, 4096, 1<<19)
		c.must(1, 0)
		if calls := r.taken(); !slices.Equal(calls, []string{"cache 4096+524288"}) {
			t.Errorf("the backend was asked %q", calls)
		}
	}
}

func TestFastZero(t *testing.T) {
	for _, tt := range []struct {
		name     string
		can      bool
		readOnly bool
		flags    wire.CommandFlags
		err      error
		sent     bool // NBD_FLAG_SEND_FAST_ZERO
		want     wire.Errno
		call     string
	}{
		{"fast", true, false, wire.FlagFastZero, nil, true, 0, "zero 0+65536 3"},
		{"fast without a hole", true, false, wire.FlagFastZero | wire.FlagNoHole, nil, true, 0, "zero 0+65536 2"},
		{"fast on the disk", true, false, wire.FlagFastZero | wire.FlagFUA, nil, true, 0, "zero 0+65536 3"},
		{"not fast", true, false, wire.FlagFastZero, backend.ErrNotFast, true, wire.ENOTSUP, "zero 0+65536 3"},
		{"as it comes", true, false, 0, nil, true, 0, "zero 0+65536 1"},
		{"without a hole", true, false, wire.FlagNoHole, nil, true, 0, "zero 0+65536 0"},
		{"who knows", false, false, wire.FlagFastZero, nil, false, wire.EINVAL, ""},
		{"read-only", true, true, wire.FlagFastZero, nil, false, wire.EPERM, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newMemory(t, 1<<20)
			s.Exports[0].ReadOnly = tt.readOnly
			r := record(s)
			r.info.FastZero, r.zeroErr = tt.can, tt.err
			errors, logs := observer.New(zap.ErrorLevel)
			s.Log = zap.New(errors)
			c := dial(t, listen(t, s))
			c.greet(3)
			c.option(wire.OptGo, str(""), uint16(0))
			_, p := c.reply(wire.OptGo)
			if sent := binary.BigEndian.Uint16(p[10:])&(1<<11) != 0; sent != tt.sent {
				t.Errorf("fast zeroes are offered: %v", sent)
			}
			c.expect(wire.OptGo, wire.RepAck)
			c.request(tt.flags, wire.CmdWriteZeroes, 1, 0, 1<<16)
			c.must(1, tt.want)
			if calls := r.taken(); tt.call == "" && len(calls) != 0 || tt.call != "" && !slices.Equal(calls, []string{tt.call}) {
				t.Errorf("the backend was asked %q, not %q", calls, tt.call)
			}
			// Clients that find out what is fast don't fill the log.
			if n := logs.Len(); n != 0 {
				t.Errorf("%d errors were logged", n)
			}
		})
	}
}

func TestTransmissionFlags(t *testing.T) {
	const always = wire.HasFlags | wire.SendFlush | wire.CanMultiConn | wire.SendCache
	const writable = wire.SendFUA | wire.SendTrim | wire.SendWriteZeroes
	for _, tt := range []struct {
		info backend.Info
		want wire.TransmissionFlags
	}{
		{backend.Info{}, always | writable},
		{backend.Info{ReadOnly: true}, always | wire.ReadOnly},
		{backend.Info{Rotational: true}, always | writable | wire.Rotational},
		{backend.Info{FastZero: true}, always | writable | wire.SendFastZero},
		{backend.Info{FastZero: true, ReadOnly: true, Rotational: true}, always | wire.ReadOnly | wire.Rotational},
	} {
		e := Export{info: tt.info}
		if got := e.flags(false); got != tt.want {
			t.Errorf("%+v: flags %#x, not %#x", tt.info, got, tt.want)
		}
		if got := e.flags(true); got != tt.want|wire.SendDF {
			t.Errorf("%+v: flags %#x with structured replies", tt.info, got)
		}
	}
}

// flushCounter counts flushes.
type flushCounter struct {
	backend.Backend
	n atomic.Int32
}

func (f *flushCounter) Flush(ctx context.Context) error {
	f.n.Add(1)
	return f.Backend.Flush(ctx)
}

// FUA is taken with every command, and means something for those that write.
func TestFUA(t *testing.T) {
	s := newMemory(t, 1<<20)
	f := &flushCounter{Backend: s.Exports[0].Backend}
	s.Exports[0].Backend = f
	c := dial(t, listen(t, s))
	c.begin(true)
	for _, tt := range []struct {
		cmd     wire.Command
		length  uint32
		flushes int32
	}{
		{wire.CmdRead, 512, 0},
		{wire.CmdWrite, 512, 1},
		{wire.CmdFlush, 0, 1},
		{wire.CmdTrim, 512, 1},
		{wire.CmdCache, 512, 0},
		{wire.CmdWriteZeroes, 512, 1},
		{wire.CmdBlockStatus, 512, 0},
	} {
		f.n.Store(0)
		c.request(wire.FlagFUA, tt.cmd, 1, 0, tt.length)
		if tt.cmd == wire.CmdWrite {
			c.put(make([]byte, tt.length))
		}
		if flags, typ, _, p := c.chunk(); flags != 1 || typ >= 1<<15 {
			t.Errorf("%v with FUA: chunk type %#x %q", tt.cmd, typ, p)
		}
		if n := f.n.Load(); n != tt.flushes {
			t.Errorf("%v with FUA: %d flushes", tt.cmd, n)
		}
	}
}
