package interop

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver"
)

// faulty is a server under a load, with what the faults need besides.
type faulty struct {
	*server
	load *load
	http string
	made atomic.Int64 // connections of faults
}

// The exports: those of the load, whose last region is left to the faults, and one
// that anybody may write over.
const (
	faultyOwners = 3
	victim       = faultyOwners * loadRegion
	faultySize   = victim + 4*mib
)

// TestFaultsUnderLoad: whatever happens to other clients, or to the process, no
// request of the load fails and all of its data is right; and afterwards nothing
// is left of those that are gone.
func TestFaultsUnderLoad(t *testing.T) {
	begin := time.Now()
	target := newHole(t, "disk.img", faultySize)
	f := &faulty{http: "http://" + freePort(t)}
	f.server = start(t, config{
		env:     []string{"GOMEMLIMIT=256MiB"},
		volumes: []string{"scratch=memory:64M", "disk=" + target + ",access=read-write", "memory=memory:" + strconv.Itoa(faultySize)},
		flags:   []string{"--http", strings.TrimPrefix(f.http, "http://"), "--log-level", "error"},
	})
	f.load = newLoad(f.server, faultyOwners, "disk", "memory")
	f.load.during(t, func() {}) // so that what comes for the first time is there
	f.load.requests.Store(0)
	before := rss(t, f.server)
	for _, fault := range []struct {
		name   string
		inject func(*testing.T, *faulty)
	}{
		{"clients are killed", killClients},
		{"connections are reset", resetConnections},
		{"requests are cut", cutRequests},
		{"writes are cut", cutWrites},
		{"clients read nothing", readNothing},
		{"a client asks faster than it reads", askFaster},
		{"connections come and go", comeAndGo},
		{"the process is stopped for a moment", stopProcess},
	} {
		t.Run(fault.name, func(t *testing.T) {
			begin, made, requests := time.Now(), f.made.Load(), f.load.requests.Load()
			goroutines, files := f.settled(t)
			f.load.during(t, func() {
				fault.inject(t, f)
				f.onlyLoadLeft(t)
			})
			eventually(t, "nothing is left of the clients", func() bool {
				st := f.now(t)
				g, n := f.settled(t)
				return st.Connections == 0 && st.InFlight == 0 && g <= goroutines && n <= files
			})
			t.Logf("%d connections of the fault, %d requests of the load, %.1f s, RSS %d MiB", f.made.Load()-made,
				f.load.requests.Load()-requests, time.Since(begin).Seconds(), rss(t, f.server)/mib)
		})
	}
	t.Logf("%d connections of faults, %d requests of the load, %.1f s, RSS %d MiB before, %d MiB after (with the race detector)",
		f.made.Load(), f.load.requests.Load(), time.Since(begin).Seconds(), before/mib, rss(t, f.server)/mib)
	f.load.checkFile(t, "disk", target)
	f.signal(syscall.SIGTERM)
	f.ended(0, "signal=SIGTERM")
	f.load.checkFile(t, "disk", target)
}

// now is the status, by the way that takes no process.
func (f *faulty) now(t *testing.T) (st nbdserver.Status) {
	t.Helper()
	if code, body := ask(t, "GET", f.http+"/status"); code != 200 || json.Unmarshal([]byte(body), &st) != nil {
		t.Fatalf("/status: %d %s", code, body)
	}
	return st
}

// settled are the numbers of goroutines and open files.
func (f *faulty) settled(t *testing.T) (goroutines, files int) {
	t.Helper()
	_, body := ask(t, "GET", f.http+"/metrics")
	for line := range strings.Lines(body) {
		fmt.Sscanf(line, "go_goroutines %d", &goroutines)
		fmt.Sscanf(line, "process_open_fds %d", &files)
	}
	if goroutines == 0 || files == 0 {
		t.Fatalf("the metrics are\n%s", body)
	}
	return goroutines, files
}

// onlyLoadLeft waits until the connections of a fault are gone.
func (f *faulty) onlyLoadLeft(t *testing.T) {
	t.Helper()
	eventually(t, "the other connections are closed", func() bool {
		return t.Failed() || f.now(t).Connections == len(f.load.owners)
	})
}
