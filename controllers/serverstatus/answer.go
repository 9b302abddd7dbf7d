package serverstatus

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Answer is what an export's status shows of a server's own. Whoever answers in
// the pod's place can lie in it, but not make it large.
type Answer struct {
	// Connections are those that are open, from 0 to math.MaxInt32.
	Connections int32
	// Full are the volumes whose scratch has no room left, by name, 32 at most.
	Full []Full
}

// Full is a volume whose scratch has no room left.
type Full struct {
	// Volume is its name, of 63 bytes at most.
	Volume string
	// Limit in bytes is what its scratch may hold.
	Limit uint64
}

const (
	// scratchBlock is the unit in bytes in which a scratch grows: what is left of
	// it below that is no room.
	scratchBlock = 64 << 10
	// maxVolumes and maxName are those of the API.
	maxVolumes = 32
	maxName    = 63
)

// page is what is read of the server's /status page.
type page struct {
	Connections *int64 `json:"connections"`
	Exports     []struct {
		Name         string  `json:"name"`
		Size         uint64  `json:"size"`
		ScratchBytes uint64  `json:"scratchBytes"`
		ScratchLimit *uint64 `json:"scratchLimit"`
	} `json:"exports"`
}

// parse reads a /status page.
func parse(body []byte) (Answer, error) {
	var p page
	if err := json.Unmarshal(body, &p); err != nil {
		return Answer{}, fmt.Errorf("its status is no JSON that can be read: %w", err)
	}
	if p.Connections == nil {
		return Answer{}, fmt.Errorf("its status has no connections")
	}
	a := Answer{Connections: int32(min(max(*p.Connections, 0), math.MaxInt32))}
	for _, e := range p.Exports {
		// A scratch as large as its volume is never too small.
		full := e.ScratchLimit != nil && e.ScratchBytes < e.Size &&
			(e.ScratchBytes >= *e.ScratchLimit || *e.ScratchLimit-e.ScratchBytes < scratchBlock)
		if full && len(e.Name) <= maxName && len(a.Full) < maxVolumes {
			a.Full = append(a.Full, Full{e.Name, *e.ScratchLimit})
		}
	}
	slices.SortFunc(a.Full, func(x, y Full) int { return strings.Compare(x.Volume, y.Volume) })
	return a, nil
}

// same tells whether two answers say the same; both may be nil.
func same(a, b *Answer) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Connections == b.Connections && slices.Equal(a.Full, b.Full)
}
