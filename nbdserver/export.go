package nbdserver

import (
	"sync"
	"sync/atomic"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

const (
	// maxWork is how many calls into Backends are under way at a time, over all
	// connections, besides one flush of each. Each may block a thread of the
	// operating system for as long as the storage is slow, and a process that
	// needs too many of them is ended by the runtime or by its container's limit.
	// They are shared out among the exports, so that one whose storage hangs
	// doesn't stop the others.
	maxWork = 256
	// minWork is the share of an export if there are more than 8 of them.
	minWork = 32
)

// Export is a volume under the name by which clients ask for it. Its fields
// must not change once its server serves.
type Export struct {
	// Name in at most 4096 bytes of UTF-8.
	Name string
	// Description for people, at most 4096 bytes of UTF-8; may be empty.
	Description string
	// ReadOnly forbids every change, also where the Backend would allow it.
	ReadOnly bool
	// RequireTLS keeps the export from clients that haven't started TLS: they
	// neither see nor get it (SELECTIVETLS). Without Server.TLS nobody does.
	RequireTLS bool
	// Backend holds the bytes, for this export alone. The server flushes and closes
	// it at its end.
	Backend backend.Backend

	info     backend.Info  // but for the size
	size     atomic.Uint64 // in bytes, as new connections see it
	sizing   chan struct{} // holds the one who finds out the size
	work     chan struct{} // a place for each call into the Backend
	flusher  flusher
	panicked func(p any) // tells of a panic of the Backend that no connection has to do with
	counters
	rates   rates          // over all its connections
	clients int            // connections that have chosen it; guarded by Server.mu
	users   sync.WaitGroup // the same, and flushes of a pause: its close waits for them
}

func (e *Export) init(places int) {
	e.info = e.Backend.Info()
	e.size.Store(e.info.Size)
	e.sizing = make(chan struct{}, 1)
	e.work = make(chan struct{}, places)
	e.info.ReadOnly = e.info.ReadOnly || e.ReadOnly
	e.flusher.flush = e.Backend.Flush
	e.flusher.panicked = e.panicked
}

// flags are the transmission flags of the export for a client that has, or has
// not, negotiated structured replies.
func (e *Export) flags(structured bool) wire.TransmissionFlags {
	// A flush covers the completed writes of all connections: they share the
	// Backend and its flusher. That is what CAN_MULTI_CONN promises.
	f := wire.HasFlags | wire.SendFlush | wire.CanMultiConn | wire.SendCache
	if e.info.ReadOnly {
		f |= wire.ReadOnly
	} else {
		f |= wire.SendFUA | wire.SendTrim | wire.SendWriteZeroes
		if e.info.FastZero {
			f |= wire.SendFastZero
		}
	}
	if e.info.Rotational {
		f |= wire.Rotational
	}
	if structured {
		f |= wire.SendDF
	}
	return f
}

// blockSize is what offsets and lengths must be a multiple of, in bytes.
func (e *Export) blockSize() uint32 { return max(e.info.MinimumBlockSize, 1) }

// lookup finds an export by name; the empty name is the default export, which
// is the first one. It returns nil if there is none.
func (s *Server) lookup(name string) *Export {
	for _, e := range s.Exports {
		if e.Name == name {
			return e
		}
	}
	if name == "" && len(s.Exports) > 0 {
		return s.Exports[0]
	}
	return nil
}
