package nbdserver

import (
	"context"
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/report"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// FuzzDrain plays two clients and everything that can end a server, in any
// order: the bytes are a program of what each client sends, when it leaves, when
// time passes, when the drain begins and when the server is forced. The server
// must neither panic nor hang, end within its bound, with the exit code that
// fits, and leave no goroutine behind; the bubble fails on one.
func FuzzDrain(f *testing.F) {
	const a, b = 0, 1 // clients
	send := func(client, i byte) []byte { return []byte{2 + client, i} }
	wait := func(tenths byte) []byte { return []byte{4, tenths} }
	drain, force := []byte{5, 0}, []byte{7, 0}
	// Policy, backend, grace and timeout, then the program.
	f.Add(pack([]byte{0, 0, 2, 5}, send(a, 0), send(b, 1), drain, send(a, 4), wait(30), send(a, 4), send(a, 11)))
	f.Add(pack([]byte{1, 0, 2, 5}, send(a, 0), send(b, 0), send(a, 5), drain, wait(30)))
	f.Add(pack([]byte{0, 1, 0, 9}, send(a, 0), send(a, 4), drain, send(b, 0), wait(10), force))
	f.Add(pack([]byte{1, 2, 1, 1}, send(a, 0), send(a, 7), []byte{6, 2}, wait(200), drain, drain))
	f.Add(pack([]byte{1, 4, 3, 9}, send(a, 0), send(a, 4), send(b, 2), send(b, 3), drain, []byte{6, 0}, wait(40), []byte{6, 5}))
	f.Add(pack([]byte{0, 3, 0, 0}, []byte{0, 4, 0, 0, 0, 3}, send(a, 2), []byte{6, 1}, []byte{1, 2, 0, 0}))
	f.Add(pack([]byte{0, 2, 0, 1}, drain, wait(50), force)) // force doesn't extend the bound
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) >= 4 {
			synctest.Test(t, func(t *testing.T) { playDrain(t, program) })
		}
	})
}

// messages that a program of FuzzDrain can send by their number; it can send any
// other bytes too.
var messages = func() [][]byte {
	option := func(o wire.Option, payload ...any) []byte {
		p := pack(payload...)
		return pack("IHAVEOPT", uint32(o), uint32(len(p)), p)
	}
	request := func(flags wire.CommandFlags, c wire.Command, length uint32, data string) []byte {
		return pack(uint32(0x25609513), uint16(flags), uint16(c), uint64(1), uint64(0), length, data)
	}
	return [][]byte{
		pack(uint32(3), option(wire.OptStructuredReply), option(wire.OptSetMetaContext, str(""), uint32(1), str("base:allocation")), option(wire.OptGo, str(""), uint16(0))),
		pack(uint32(1), option(wire.OptExportName, "disk")),
		pack(uint32(3), option(wire.OptList)),
		option(wire.OptAbort),
		request(wire.FlagFUA, wire.CmdWrite, 4, "data"),
		request(0, wire.CmdWrite, 8, "half"),
		request(0, wire.CmdRead, 4096, ""),
		request(0, wire.CmdFlush, 0, ""),
		request(0, wire.CmdTrim, 4096, ""),
		request(wire.FlagFUA, wire.CmdWriteZeroes, 4096, ""),
		request(wire.FlagReqOne, wire.CmdBlockStatus, 4096, ""),
		request(0, wire.CmdDisc, 0, ""),
	}
}()

// awkward is a Backend that is slow, and whose flush does what it likes.
type awkward struct {
	gated
	flush byte // 1 fails, 2 takes longer than anybody waits, 3 panics
	slow  bool
}

func (w *awkward) WriteAt(ctx context.Context, p []byte, off uint64) error {
	if w.slow {
		time.Sleep(3 * time.Second)
	}
	return w.gated.WriteAt(ctx, p, off)
}

func (w *awkward) Flush(ctx context.Context) error {
	switch w.flush {
	case 1:
		return syscall.EIO
	case 2:
		time.Sleep(time.Minute)
	case 3:
		panic("awkward: asked to")
	}
	return w.gated.Flush(ctx)
}

// player is a client that reads whatever comes, and writes in a goroutine of
// its own: a pipe has no buffer.
type player struct {
	*rawClient
	out chan []byte
}

func newPlayer(t *testing.T, s *Server, most int) *player {
	p := &player{connect(t, s), make(chan []byte, most)}
	go io.Copy(io.Discard, p)
	go func() {
		for b := range p.out {
			_, _ = p.Write(b) // the server may have hung up
		}
	}()
	return p
}

func (p *player) close() {
	p.Close()
	close(p.out)
}

func playDrain(t *testing.T, program []byte) {
	s := newMemory(t, 1<<20)
	s.DrainPolicy = &DrainPolicy{
		Policy:  Policy(program[0] % 2),
		Grace:   time.Duration(program[2]%16) * time.Second,
		Timeout: time.Duration(program[3]%16) * time.Second,
	}
	backend := &awkward{gated: gated{Backend: s.Exports[0].Backend}, flush: program[1] % 4, slow: program[1]&4 != 0}
	s.Exports[0].Backend = backend
	program = program[4:]
	var clients [2]*player
	came := 0
	client := func(i byte) *player {
		if clients[i%2] == nil {
			came++
			clients[i%2] = newPlayer(t, s, len(program))
		}
		return clients[i%2]
	}
	for len(program) >= 2 {
		op, arg, hurry := program[0]%8, program[1], program[0]&0x80 != 0
		program = program[2:]
		switch op {
		case 0, 1:
			n := min(int(arg), len(program))
			client(op).out <- program[:n]
			program = program[n:]
		case 2, 3:
			client(op).out <- messages[int(arg)%len(messages)]
		case 4:
			time.Sleep(time.Duration(arg) * 100 * time.Millisecond)
		case 5:
			s.BeginDrain("test")
		case 6:
			switch arg / 2 % 3 {
			case 0: // the client leaves; its next message comes on a new connection
				client(arg).close()
				clients[arg%2] = nil
			default:
				for _, c := range s.connections() {
					c.Disconnect(arg/2%3 == 2)
				}
			}
		case 7:
			go s.Close()
		}
		if !hurry {
			synctest.Wait() // and the same bytes do the same again
		}
	}
	s.BeginDrain("test")
	begun, bound := time.Now(), s.DrainPolicy.Timeout+closeTimeout
	select {
	case <-s.Done():
	case <-time.After(bound + time.Second):
		t.Fatalf("the server is still %v after %v", s.Phase(), time.Since(begun))
	}
	checkEnd(t, s, backend, bound, came)
	for _, c := range clients {
		if c != nil {
			c.close()
		}
	}
	time.Sleep(time.Hour) // for flushes that take so long
	nothingLeft(t, s)
	if n := s.panics.Load(); n != 0 && backend.flush != 3 {
		t.Errorf("%d panics", n)
	}
}

// checkEnd compares the report with what can have happened.
func checkEnd(t *testing.T, s *Server, b *awkward, bound time.Duration, came int) {
	t.Helper()
	r := s.Report()
	if took := r.FinishedAt.Sub(r.StartedAt); took < 0 || took > bound {
		t.Errorf("the drain took %v, more than %v", took, bound)
	}
	want := report.ExitClean
	switch {
	case b.flush != 0:
		want = report.ExitFlushFailed
	case r.ClientsCut > 0:
		want = report.ExitClientsCut
	}
	if r.ExitCode != want || (r.Error != "") != (want == report.ExitFlushFailed) {
		t.Errorf("exit code %d, not %d; report %+v", r.ExitCode, want, r)
	}
	// One that has left counts too if it is owed an answer: it may have closed
	// but its half.
	if r.ClientsCut < 0 || r.ClientsCut > came {
		t.Errorf("%d of %d clients were cut off", r.ClientsCut, came)
	}
}
