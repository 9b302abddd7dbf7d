package nbdserver

import (
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/report"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		s.Version, s.DrainPolicy = "v1.2.3", bounds(Disconnect)
		g := gate(s)
		g.gate = make(chan struct{})
		start := time.Now().UTC()
		if st := s.Status(); st.Clients == nil || len(st.Clients) != 0 || st.Drain.GraceEndsAt != nil || st.DrainStartedAt != nil {
			t.Errorf("the status of an idle server is %+v", st)
		}
		c := connect(t, s)
		c.begin(false)
		time.Sleep(time.Second)
		negotiating := connect(t, s)
		negotiating.greet(3)
		c.request(0, wire.CmdRead, 1, 0, 512)
		c.must(1, 0)
		c.get(512)
		c.request(0, wire.CmdRead, 2, 1<<20, 512)
		c.must(2, wire.EINVAL)
		c.request(0, wire.CmdWrite, 3, 0, 4, "slow")
		synctest.Wait()
		s.BeginDrain("file-created=/stop")
		at := func(d time.Duration) *time.Time { return new(start.Add(time.Second + d)) }
		want := Status{
			Version: "v1.2.3", StartedAt: start, Phase: "Draining", Condition: "file-created=/stop", DrainStartedAt: at(0),
			Drain: DrainBounds{Policy: "disconnect", GraceSeconds: new(10.0), GraceEndsAt: at(10 * time.Second),
				TimeoutSeconds: new(30.0), TimeoutEndsAt: at(30 * time.Second)},
			Connections: 2, InFlight: 1,
			Clients: []ClientStatus{
				{Peer: "pipe", State: "connected", Export: "disk", Since: start, Requests: 3, Errors: 1, BytesRead: 512, InFlight: 1},
				{Peer: "pipe", State: "negotiating", Since: *at(0)},
			},
			Exports: []ExportStatus{{Name: "disk", Size: 1 << 20, BytesRead: 512}},
		}
		if got, want := asJSON(t, s.Status()), asJSON(t, want); got != want {
			t.Errorf("the status is\n%s\nnot\n%s", got, want)
		}
		close(g.gate)
		c.must(3, 0)
		c.Close()
		negotiating.Close()
		<-s.Done()
		if st := s.Status(); st.Phase != "Ended" || st.Connections != 0 || len(st.Clients) != 0 {
			t.Errorf("the status in the end is %+v", st)
		}
	})
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestStatusIsBounded: the list has the oldest connections, and the number has
// all.
func TestStatusIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory(t, 1<<20)
		s.SetLimits(Limits{MaxConnections: 1000})
		start := time.Now()
		for range maxClients + 10 {
			defer connect(t, s).Close()
			time.Sleep(time.Millisecond)
		}
		st := s.Status()
		if st.Connections != maxClients+10 || len(st.Clients) != maxClients {
			t.Fatalf("%d connections, %d of them listed", st.Connections, len(st.Clients))
		}
		for i, c := range st.Clients {
			if want := start.Add(time.Duration(i) * time.Millisecond); !c.Since.Equal(want) {
				t.Fatalf("connection %d is of %v, not of %v", i, c.Since, want)
			}
		}
	})
}

func TestUnboundedDrainInStatus(t *testing.T) {
	s := newMemory(t, 1<<20)
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b := s.Status().Drain; fmt.Sprint(b) != fmt.Sprint(DrainBounds{Policy: "refuse"}) {
		t.Errorf("%+v", b)
	}
}

// TestTimeoutBeforeTheGrace: a grace that the timeout takes the place of has no end
// of its own.
func TestTimeoutBeforeTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, grace := range []time.Duration{30 * time.Second, time.Minute} {
			s := newMemory(t, 1<<20)
			s.DrainPolicy = &DrainPolicy{Grace: grace, Timeout: 30 * time.Second}
			c := connect(t, s)
			c.begin(false)
			s.BeginDrain("test")
			end := time.Now().UTC().Add(30 * time.Second)
			want := DrainBounds{Policy: "refuse", GraceSeconds: new(grace.Seconds()), TimeoutSeconds: new(30.0), TimeoutEndsAt: &end}
			if got, want := asJSON(t, s.Status().Drain), asJSON(t, want); got != want {
				t.Errorf("the bounds are\n%s\nnot\n%s", got, want)
			}
			ended(t, s, 30*time.Second, report.ExitClientsCut)
		}
	})
}
