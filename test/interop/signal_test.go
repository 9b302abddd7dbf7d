package interop

import (
	"os"
	"syscall"
	"testing"
	"time"
)

// bound is far below nbdkit's behaviour, which is to wait for ever, and well
// above what a drain with a timeout of 3 s takes.
const bound = 13 * time.Second

// TestDrainBounds: SIGTERM comes while a client is connected and idle.
func TestDrainBounds(t *testing.T) {
	tests := []struct {
		policy    string
		code, cut int
		least     time.Duration
	}{
		{policy: "refuse", code: 3, cut: 1, least: 3 * time.Second},
		{policy: "disconnect", code: 0, least: time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.policy, func(t *testing.T) {
			t.Parallel()
			transports(t, func(t *testing.T, transport string) {
				s := start(t, config{
					volumes: []string{"memory:1M"},
					flags:   []string{"--drain-grace", "1s", "--drain-timeout", "3s", "--drain-policy", tt.policy},
				})
				c := s.connect(transport)
				c.read(0, 512)
				sent := time.Now()
				s.signal(syscall.SIGTERM)
				c.awaitClose()
				c.Close()
				r := s.ended(tt.code, "signal=SIGTERM")
				if took := time.Since(sent); took < tt.least || took > bound {
					t.Errorf("the end came after %v", took)
				}
				if d := r.FinishedAt.Sub(r.StartedAt); d < tt.least || d > bound {
					t.Errorf("by the report the drain took %v", d)
				}
				if r.ClientsCut != tt.cut || r.BytesRead != 512 {
					t.Errorf("the report is %+v", r)
				}
			})
		})
	}
}

// TestRefusal: between grace and timeout requests fail with ESHUTDOWN, and a
// client that leaves then isn't cut off.
func TestRefusal(t *testing.T) {
	t.Parallel()
	s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--drain-grace", "0s"}})
	c := s.connect("tcp")
	s.signal(syscall.SIGTERM)
	eventually(t, "the server refuses requests", func() bool { return s.status().Phase == "Quiescing" })
	c.put(request(0, cmdRead, 1, 0, 512))
	if cookie, errno := c.reply(); cookie != 1 || errno != eShutdown {
		t.Errorf("cookie %d, error %d", cookie, errno)
	}
	c.disconnect()
	if r := s.ended(0, "signal=SIGTERM"); r.ClientsCut != 0 {
		t.Errorf("the report is %+v", r)
	}
}

func TestIdleServerEndsAtOnce(t *testing.T) {
	t.Parallel()
	for sig, condition := range map[os.Signal]string{
		syscall.SIGTERM: "signal=SIGTERM",
		os.Interrupt:    "signal=SIGINT",
	} {
		s := start(t, config{volumes: []string{"memory:1M"}})
		s.signal(sig)
		if r := s.ended(0, condition); !r.Clean() || r.ClientsCut != 0 || r.FinishedAt.Before(r.StartedAt) {
			t.Errorf("%v: the report is %+v", sig, r)
		}
	}
}

func TestSecondSignalForces(t *testing.T) {
	t.Parallel()
	s := start(t, config{volumes: []string{"memory:1M"}}) // would wait without end
	c := s.connect("tcp")
	s.signal(syscall.SIGTERM)
	s.awaitRefusal()
	c.read(0, 512)
	s.signal(syscall.SIGINT)
	c.awaitClose()
	if r := s.ended(3, "signal=SIGTERM"); r.ClientsCut != 1 {
		t.Errorf("the report is %+v", r)
	}
}

// TestSignalJoinsDrain: a preStop hook begins a drain, and the kubelet sends
// SIGTERM right after it. That must not cut off anybody.
func TestSignalJoinsDrain(t *testing.T) {
	t.Parallel()
	s := start(t, config{volumes: []string{"memory:1M"}})
	c := s.connect("tcp")
	must(t, raceBinary, "ctl", "--control", "unix://"+s.ctl, "drain")
	s.awaitRefusal()
	s.signal(syscall.SIGTERM)
	for range 100 {
		c.read(0, 512)
	}
	c.disconnect()
	s.ended(0, "control=drain")
}
