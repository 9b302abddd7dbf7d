package nbdserver

import (
	"io"
	"sync/atomic"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// TestConnectedBeforeTheClientKnows: whoever counts clients by ConnState has
// counted one before it can tell another that it may leave.
func TestConnectedBeforeTheClientKnows(t *testing.T) {
	for name, choose := range map[string]struct {
		opt     wire.Option
		payload []any
		answer  int // bytes of it, but for the last one
	}{
		"EXPORT_NAME": {wire.OptExportName, []any{"disk"}, 10 + 124 - 1},
		"GO":          {wire.OptGo, []any{str("disk"), uint16(0)}, 20 + 12 + 20 - 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newMemory(t, 1<<20)
			var state atomic.Int32
			s.ConnState = func(_ *Conn, st ConnState) { state.Store(int32(st)) }
			c := connect(t, s)
			defer c.Close()
			c.greet(1)
			c.option(choose.opt, choose.payload...)
			c.get(choose.answer)
			// The last byte keeps the server, since a pipe has no buffer.
			if st := ConnState(state.Load()); st != StateConnected {
				t.Errorf("the client learns that it is connected; the state is %v", st)
			}
			c.get(1)
		})
	}
}

// reach does what brings a connection into a state, or is about to. That a client
// is connected it may never learn.
func (c *rawClient) reach(s ConnState) {
	switch s {
	case StateConnected:
		c.greet(1)
		c.option(wire.OptGo, str("disk"), uint16(0))
		_, _ = io.Copy(io.Discard, c)
	case StateEnded:
		c.begin(false)
	}
}
