package nbdserver

import (
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// TestPhasesAreLogged: each phase has one line, and it says what began the drain,
// who is left, and how long it may last.
func TestPhasesAreLogged(t *testing.T) {
	stay := func(t *testing.T, s *Server) { <-s.Done() }
	tests := []struct {
		name    string
		policy  *DrainPolicy
		clients int
		then    func(t *testing.T, s *Server)
		want    []string // phase, clients, requests in flight, at most
	}{
		{"nobody there", bounds(Refuse), 0, stay, []string{"Draining 0 0 10s", "Closing 0 0 40s", "Ended info"}},
		{"nobody there, no bound", nil, 0, stay, []string{"Draining 0 0 infinite", "Closing 0 0 infinite", "Ended info"}},
		{"cut off", bounds(Refuse), 2, stay, []string{"Draining 2 2 10s", "Quiescing 2 2 20s", "Closing 2 2 10s", "Ended warn"}},
		{"grace without end", &DrainPolicy{Grace: Infinite, Timeout: time.Minute}, 1, stay,
			[]string{"Draining 1 1 1m0s", "Closing 1 1 10s", "Ended warn"}},
		{"timeout before the grace", &DrainPolicy{Grace: time.Hour, Timeout: time.Minute}, 1, stay,
			[]string{"Draining 1 1 1m0s", "Closing 1 1 10s", "Ended warn"}},
		{"timeout without end", &DrainPolicy{Grace: time.Hour, Timeout: Infinite}, 1, func(_ *testing.T, s *Server) {
			time.Sleep(2 * time.Hour)
			s.Close()
		}, []string{"Draining 1 1 1h0m0s", "Quiescing 1 1 infinite", "Closing 1 1 10s", "Ended warn"}},
		{"second signal", bounds(Refuse), 1, func(_ *testing.T, s *Server) {
			time.Sleep(time.Second)
			s.Close()
		}, []string{"Draining 1 1 10s", "Closing 1 1 10s", "Ended warn"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemory(t, 1<<20)
				s.DrainPolicy = tt.policy
				gate(s).gate = make(chan struct{}) // never opened
				logs := observed(s)
				for range tt.clients {
					c := connect(t, s)
					c.begin(false)
					c.request(0, wire.CmdWrite, 1, 0, 4, "slow")
					defer c.Close()
				}
				synctest.Wait()
				s.BeginDrain("file-created=/stop")
				s.BeginDrain("signal=SIGTERM")
				tt.then(t, s)
				<-s.Done()
				var got []string
				for _, l := range logs.FilterMessage("drain").All() {
					m := l.ContextMap()
					if m["phase"] == "Ended" {
						got = append(got, fmt.Sprint("Ended ", l.Level))
						if r := s.Report(); m["report"] != r || r.Condition != "file-created=/stop" {
							t.Errorf("the last line says %v", m)
						}
						continue
					}
					got = append(got, fmt.Sprint(m["phase"], " ", m["clients"], " ", m["inFlight"], " ", m["atMost"]))
					if l.Level != zap.InfoLevel || m["condition"] != "file-created=/stop" {
						t.Errorf("%v: %v", l.Level, m)
					}
				}
				if fmt.Sprint(got) != fmt.Sprint(tt.want) {
					t.Errorf("the log says %q, not %q", got, tt.want)
				}
			})
		})
	}
}

// The longest timeout that there is doesn't wrap.
func TestLongestTimeout(t *testing.T) {
	d := DrainPolicy{Grace: Infinite, Timeout: math.MaxInt64}
	for p := Draining; p <= Closing; p++ {
		if got := d.until(p); got != math.MaxInt64 {
			t.Errorf("%v: %v", p, got)
		}
	}
}
