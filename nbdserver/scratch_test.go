package nbdserver

import (
	"fmt"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/filter/cow"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// copyOnWrite puts a scratch of limit bytes, 0 for no limit, over the volume of s.
func copyOnWrite(t *testing.T, s *Server, limit uint64) {
	t.Helper()
	o, err := cow.Open(s.Exports[0].Backend, cow.Options{Dir: t.TempDir(), Limit: limit})
	if err != nil {
		t.Fatal(err)
	}
	s.Exports[0].Backend = o
}

// TestScratch follows a scratch in the metrics and in the status until it is
// full.
func TestScratch(t *testing.T) {
	const block = 64 << 10
	s := newMemory(t, 1<<20)
	copyOnWrite(t, s, 2*block)
	c := dial(t, listen(t, s))
	c.begin(false)
	check := func(bytes, refused string, used uint64) {
		t.Helper()
		wantMetrics(t, s, map[string]string{
			`nbd_server_scratch_bytes{export="disk"}`:                                  bytes,
			`nbd_server_scratch_limit_bytes{export="disk"}`:                            "131072",
			`nbd_server_scratch_refused_total{export="disk"}`:                          refused,
			`nbd_server_requests_total{command="write",export="disk",result="enospc"}`: refused,
		})
		e := s.Status().Exports[0]
		if e.ScratchBytes == nil || *e.ScratchBytes != used || e.ScratchLimit == nil || *e.ScratchLimit != 2*block ||
			e.ScratchRefused == nil || fmt.Sprint(*e.ScratchRefused) != refused {
			t.Errorf("the status of the export is %+v", e)
		}
	}
	check("0", "0", 0)
	c.request(0, wire.CmdWrite, 1, 5, 4, "data")
	c.must(1, 0)
	check("65536", "0", block)
	c.request(wire.FlagFUA, wire.CmdWrite, 2, 2*block, 4, "data")
	c.must(2, 0)
	c.request(0, wire.CmdWrite, 3, 4*block, 4, "data")
	c.must(3, wire.ENOSPC)
	check("131072", "1", 2*block)
	// The volume ends there: that has nothing to do with its scratch.
	c.request(0, wire.CmdWrite, 5, 1<<20, 4, "data")
	c.must(5, wire.ENOSPC)
	if n := *s.Status().Exports[0].ScratchRefused; n != 1 {
		t.Errorf("%d writes found no room in the scratch", n)
	}
	c.request(0, wire.CmdTrim, 4, 0, 1<<20)
	c.must(4, 0)
	if e := s.Status().Exports[0]; *e.ScratchBytes != 0 || *e.ScratchRefused != 1 {
		t.Errorf("after a trim the status is %+v", e)
	}
}

// TestScratchWithoutLimit: there is no number then, and none of it without a
// scratch.
func TestScratchWithoutLimit(t *testing.T) {
	s := newMemory(t, 1<<20)
	wantMetrics(t, s, map[string]string{`nbd_server_scratch_bytes{export="disk"}`: "missing", `nbd_server_scratch_limit_bytes{export="disk"}`: "missing",
		`nbd_server_scratch_refused_total{export="disk"}`: "missing"})
	if e := s.Status().Exports[0]; e.ScratchBytes != nil || e.ScratchLimit != nil || e.ScratchRefused != nil {
		t.Errorf("without a scratch the status is %+v", e)
	}
	s = newMemory(t, 1<<20)
	copyOnWrite(t, s, 0)
	wantMetrics(t, s, map[string]string{`nbd_server_scratch_bytes{export="disk"}`: "0", `nbd_server_scratch_limit_bytes{export="disk"}`: "+Inf"})
	if e := s.Status().Exports[0]; e.ScratchBytes == nil || e.ScratchLimit != nil {
		t.Errorf("without a limit the status is %+v", e)
	}
}
