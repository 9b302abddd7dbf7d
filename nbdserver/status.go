package nbdserver

import (
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// Status is what a server is doing, for people and for the /status page.
type Status struct {
	Phase string `json:"phase"`
	// Condition that began the drain, as in report.Report; empty while serving.
	Condition string `json:"condition,omitempty"`
	// DrainStartedAt is when it did, in UTC.
	DrainStartedAt *time.Time `json:"drainStartedAt,omitempty"`
	// Connections that are open now, those that negotiate among them.
	Connections int `json:"connections"`
	// InFlight is the number of requests that are being worked on.
	InFlight int64          `json:"inFlight"`
	Exports  []ExportStatus `json:"exports"`
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
}

// Status returns a snapshot. The numbers in it are taken one after the other.
func (s *Server) Status() Status {
	s.init()
	s.mu.Lock()
	st := Status{
		Phase:       s.phase.String(),
		Condition:   s.report.Condition,
		Connections: len(s.conns),
		InFlight:    s.inFlight.Load(),
	}
	if t := s.report.StartedAt; !t.IsZero() {
		st.DrainStartedAt = &t
	}
	s.mu.Unlock()
	for _, e := range s.Exports {
		st.Exports = append(st.Exports, ExportStatus{
			Name:         e.Name,
			Size:         e.size.Load(),
			ReadOnly:     e.info.ReadOnly,
			BytesRead:    e.read.Load(),
			BytesWritten: e.written.Load(),
		})
	}
	return st
}

// commandName is the label of a counted command.
func commandName(i int) string {
	if i == commands-1 {
		return "unknown"
	}
	return wire.Command(i).String()
}
