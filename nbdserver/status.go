package nbdserver

import (
	"cmp"
	"slices"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// maxClients bounds the list of connections in a Status, and with it the page.
const maxClients = 256

// Status is what a server is doing, for people and for the /status page. Times
// are in UTC.
type Status struct {
	Version   string    `json:"version"`
	StartedAt time.Time `json:"startedAt"`
	Phase     string    `json:"phase"`
	// Condition that began the drain, as in report.Report; empty while serving.
	Condition string `json:"condition,omitempty"`
	// DrainStartedAt is when it did.
	DrainStartedAt *time.Time  `json:"drainStartedAt,omitempty"`
	Drain          DrainBounds `json:"drain"`
	// Paused tells whether a pause is complete: nothing reaches the volumes.
	Paused bool `json:"paused"`
	// PauseStartedAt and PauseEndsAt are of the pause under way, complete or not:
	// from when on requests wait, and when it ends by itself.
	PauseStartedAt *time.Time `json:"pauseStartedAt,omitempty"`
	PauseEndsAt    *time.Time `json:"pauseEndsAt,omitempty"`
	// Connections that are open now, those that negotiate among them.
	Connections int `json:"connections"`
	// InFlight is the number of requests that are being worked on.
	InFlight int64 `json:"inFlight"`
	// Clients are the connections, the oldest first, 256 at most.
	Clients []ClientStatus `json:"clients"`
	Exports []ExportStatus `json:"exports"`
}

// DrainBounds are a DrainPolicy, and what it means for the drain under way.
type DrainBounds struct {
	// Policy is "refuse" or "disconnect".
	Policy string `json:"policy"`
	// GraceSeconds and TimeoutSeconds are missing where there is no bound.
	GraceSeconds   *float64 `json:"graceSeconds,omitempty"`
	TimeoutSeconds *float64 `json:"timeoutSeconds,omitempty"`
	// GraceEndsAt and TimeoutEndsAt are when they are over; missing before a
	// drain too, and the first one if the second isn't later.
	GraceEndsAt   *time.Time `json:"graceEndsAt,omitempty"`
	TimeoutEndsAt *time.Time `json:"timeoutEndsAt,omitempty"`
}

// ClientStatus is one connection.
type ClientStatus struct {
	// Peer is the client's address. The status page on the network leaves it
	// out.
	Peer string `json:"peer,omitempty"`
	// State is "negotiating", "connected" or, for a moment, "ended".
	State string `json:"state"`
	// Export is its name; missing unless connected.
	Export string `json:"export,omitempty"`
	// Since is when the connection was accepted.
	Since time.Time `json:"since"`
	// Requests that were read, and how many of them were answered with an error.
	Requests uint64 `json:"requests"`
	Errors   uint64 `json:"errors"`
	// BytesRead and BytesWritten count the payload of successful requests.
	BytesRead    uint64 `json:"bytesRead"`
	BytesWritten uint64 `json:"bytesWritten"`
	InFlight     int    `json:"inFlight"`
}

// ExportStatus is what happened to one export since the server started.
type ExportStatus struct {
	Name string `json:"name"`
	// Size in bytes.
	Size     uint64 `json:"size"`
	ReadOnly bool   `json:"readOnly"`
	// BytesRead and BytesWritten count the payload of successful requests.
	BytesRead    uint64 `json:"bytesRead"`
	BytesWritten uint64 `json:"bytesWritten"`
	// ScratchBytes is what the scratch of a copy-on-write volume holds, and
	// ScratchLimit what it may hold, in bytes; ScratchRefused is how many writes have
	// failed for want of room there. They are missing where there is no scratch, and
	// the second where it has no limit.
	ScratchBytes   *uint64 `json:"scratchBytes,omitempty"`
	ScratchLimit   *uint64 `json:"scratchLimit,omitempty"`
	ScratchRefused *uint64 `json:"scratchRefused,omitempty"`
}

// String returns the state as it stands in the metrics and the status.
func (s ConnState) String() string { return [...]string{"negotiating", "connected", "ended"}[s] }

// Status returns a snapshot. The numbers in it are taken one after the other.
func (s *Server) Status() Status {
	s.init()
	s.mu.Lock()
	st := Status{
		Version:     s.Version,
		StartedAt:   s.started,
		Phase:       s.phase.String(),
		Condition:   s.report.Condition,
		Connections: len(s.conns),
		InFlight:    s.inFlight.Load(),
	}
	if t := s.report.StartedAt; !t.IsZero() {
		st.DrainStartedAt = &t
	}
	if p := s.pause.Load(); p != nil {
		st.Paused = isClosed(p.complete)
		st.PauseStartedAt, st.PauseEndsAt = new(p.began.UTC()), new(p.until.UTC())
	}
	s.mu.Unlock()
	st.Drain = s.policy().bounds(st.DrainStartedAt)
	st.Clients = clients(s.connections())
	for _, e := range s.Exports {
		st.Exports = append(st.Exports, e.status())
	}
	return st
}

func (e *Export) status() ExportStatus {
	st := ExportStatus{
		Name:         e.Name,
		Size:         e.size.Load(),
		ReadOnly:     e.info.ReadOnly,
		BytesRead:    e.bytes[wire.CmdRead].Load(),
		BytesWritten: e.bytes[wire.CmdWrite].Load(),
	}
	if b, ok := e.Backend.(backend.Scratch); ok {
		used, limit := b.Scratch()
		st.ScratchBytes, st.ScratchRefused = &used, new(b.ScratchRefused())
		if limit != 0 {
			st.ScratchLimit = &limit
		}
	}
	return st
}

// bounds of a drain that began at the time given, nil for not yet.
func (d DrainPolicy) bounds(began *time.Time) DrainBounds {
	b := DrainBounds{Policy: d.Policy.String()}
	bound := func(d time.Duration) (*float64, *time.Time) {
		if d == Infinite {
			return nil, nil
		}
		if began == nil {
			return new(d.Seconds()), nil
		}
		return new(d.Seconds()), new(began.Add(d))
	}
	b.GraceSeconds, b.GraceEndsAt = bound(d.Grace)
	if d.grace() == Infinite {
		b.GraceEndsAt = nil
	}
	b.TimeoutSeconds, b.TimeoutEndsAt = bound(d.Timeout)
	return b
}

// clients lists the oldest connections.
func clients(all []*Conn) []ClientStatus {
	slices.SortFunc(all, func(a, b *Conn) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.peer.String(), b.peer.String()))
	})
	list := []ClientStatus{}
	for _, c := range all[:min(len(all), maxClients)] {
		list = append(list, c.status())
	}
	return list
}

func (c *Conn) status() ClientStatus {
	state := ConnState(c.state.Load())
	st := ClientStatus{
		Peer:         c.peer.String(),
		State:        state.String(),
		Since:        c.since.UTC(),
		Requests:     c.requests.Load(),
		Errors:       c.errors.Load(),
		BytesRead:    c.read.Load(),
		BytesWritten: c.written.Load(),
		InFlight:     len(c.slots),
	}
	if state == StateConnected {
		st.Export = c.export.Name // fixed from that state on
	}
	return st
}
