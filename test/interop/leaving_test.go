package interop

import (
	"testing"
	"time"
)

func TestIdle(t *testing.T) {
	t.Parallel()
	t.Run("nobody comes", func(t *testing.T) {
		t.Parallel()
		s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--exit-when-idle", "1s"}})
		s.ended(0, "idle=1s")
	})
	t.Run("somebody leaves", func(t *testing.T) {
		t.Parallel()
		const idle = 5 * time.Second // in which the client must have come
		s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--exit-when-idle", idle.String()}})
		c := s.connect("tcp")
		c.read(0, 512)
		left := time.Now()
		c.disconnect()
		if r := s.ended(0, "idle=5s"); r.StartedAt.Sub(left) < idle {
			t.Errorf("the client left at %v; the report is %+v", left, r)
		}
	})
}

// TestLastClientLeaves: who only asks for the list is no client.
func TestLastClientLeaves(t *testing.T) {
	transports(t, func(t *testing.T, transport string) {
		s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--exit-when-last-client-leaves"}})
		contains(t, must(t, "qemu-nbd", "--list", "--socket", s.socket), "exports available: 1")
		a, b := s.connect(transport), s.connect("unix")
		a.disconnect()
		b.read(0, 512)
		if st := s.status(); st.Phase != "Serving" {
			t.Errorf("the status is %+v", st)
		}
		b.Close() // without a word
		s.ended(0, "last-client-leaves=0s")
	})
}

// TestGraceForTheNext: qemu-img connects more than once for one conversion, and
// so do two that follow one another.
func TestGraceForTheNext(t *testing.T) {
	t.Parallel()
	image := newImage(t, "disk.img", sparse(8*mib))
	s := start(t, config{volumes: []string{image}, flags: []string{"--exit-when-last-client-leaves=3s"}})
	out := t.TempDir() + "/out.img"
	for range 2 {
		must(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", s.uri("unix"), out)
		sameFile(t, image, out)
	}
	s.ended(0, "last-client-leaves=3s")
}

func TestDeadline(t *testing.T) {
	at := time.Now().Add(3 * time.Second).UTC().Format(time.RFC3339Nano)
	for _, arg := range []string{"2s", at} {
		t.Run(arg, func(t *testing.T) {
			t.Parallel()
			s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--exit-when-deadline", arg}})
			c := s.connect("tcp")
			s.awaitRefusal()
			c.read(0, 512)
			c.disconnect()
			s.ended(0, "deadline="+arg)
		})
	}
}
