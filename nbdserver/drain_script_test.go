package nbdserver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/backend/memory"
	"github.com/nbdexport/nbdexport/nbdserver/certificates"
)

// TestDrainScripts runs testdata/drain/*.txt, in which the behaviour of the drain
// is to be read: in plaintext and over TLS, where the same is to be seen. README.md
// there says what its words mean. With -update it writes what happens into them.
func TestDrainScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/drain/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	var with Server
	client, _ := encrypt(t, &with, TLSRequire, certificates.Options{})
	for _, path := range paths {
		file := readScripts(t, path)
		for _, s := range file.scripts {
			name := strings.TrimSuffix(filepath.Base(path), ".txt") + "/" + s.title
			// The bubble's end also shows that nothing of the server is left.
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { newStage(t, path, s).play() })
			})
			if *update {
				continue
			}
			t.Run("TLS/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					g := newStage(t, path, s)
					g.srv.TLS, g.tls = with.TLS, client
					g.play()
				})
			})
		}
		if *update {
			file.write(t)
		}
	}
}

// stage is where a script is played.
type stage struct {
	t        *testing.T
	path     string
	script   *script
	srv      *Server
	listener *socketListener
	disks    []*disk
	names    []string            // of clients, in the order in which they came
	clients  map[string][]*actor // by name; NAME*N are N of them
	phase    Phase
	begun    time.Time
	served   chan error
	tls      *tls.Config // of clients, if the script is played over TLS
}

func newStage(t *testing.T, path string, s *script) *stage {
	g := &stage{
		t: t, path: path, script: s, srv: &Server{}, listener: newSocketListener(), clients: map[string][]*actor{},
		begun: time.Now(), served: make(chan error, 1),
	}
	policy := DrainPolicy{Grace: Infinite, Timeout: Infinite}
	limits := Limits{}
	volumes := "disk"
	for k, v := range s.server {
		d, err := time.ParseDuration(v)
		switch k {
		case "grace":
			policy.Grace = d
		case "timeout":
			policy.Timeout = d
		case "handshake":
			limits.HandshakeTimeout = d
		case "policy":
			policy.Policy, err = map[string]Policy{"refuse": Refuse, "disconnect": Disconnect}[v], nil
		case "volumes":
			volumes, err = v, nil
		default:
			err = errors.New("unknown")
		}
		if err != nil {
			t.Fatalf("%s:%d: setting %s=%s: %v", path, s.line+1, k, v, err)
		}
	}
	g.srv.DrainPolicy = &policy
	for name := range strings.SplitSeq(volumes, ",") {
		m, err := memory.New(64 << 20)
		if err != nil {
			t.Fatal(err)
		}
		d := newDisk(g.srv, m)
		g.disks = append(g.disks, d)
		g.srv.Exports = append(g.srv.Exports, &Export{Name: name, Backend: d})
	}
	if err := g.srv.SetLimits(limits); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *stage) play() {
	go func() { g.served <- g.srv.Serve(g.listener) }()
	synctest.Wait()
	for _, r := range g.script.rows {
		// Whatever happens at another time than a row's is an error, so that every
		// time in the table is exact.
		if d := r.at - time.Since(g.begun); d > 0 {
			time.Sleep(d - time.Millisecond)
			synctest.Wait()
			if seen := g.take(); seen != "" {
				g.t.Errorf("%s:%d: before this row's time was seen: %s", g.path, r.line, seen)
			}
			time.Sleep(time.Millisecond)
		} else if d < 0 {
			g.t.Fatalf("%s:%d: the time goes back", g.path, r.line)
		}
		synctest.Wait()
		if r.step != "" && !g.do(r.step) {
			g.t.Errorf("%s:%d: %q is no step", g.path, r.line, r.step)
		}
		synctest.Wait()
		if r.got = g.take(); r.got != r.seen && !*update {
			g.t.Errorf("%s:%d: %s | %s\nexpected: %s\n    seen: %s", g.path, r.line, r.time, r.step, r.seen, r.got)
		}
	}
	g.end()
}

// end checks that everything has ended, and ends it if not.
func (g *stage) end() {
	if p := g.srv.Phase(); p != Ended {
		g.t.Errorf("%s:%d: the script ends, but the server is %v", g.path, g.script.line, p)
		for _, d := range g.disks {
			d.do("recovers")
		}
		g.srv.Close()
		<-g.srv.Done()
	}
	if err := <-g.served; !errors.Is(err, ErrServerClosed) {
		g.t.Errorf("Serve returned %v", err)
	}
	synctest.Wait()
	for name, all := range g.clients {
		for _, a := range all {
			if a.open() {
				g.t.Errorf("%s:%d: the connection of %s is still open at the end", g.path, g.script.line, name)
			}
			a.vanish()
			close(a.toSend)
		}
	}
	for _, d := range g.disks {
		d.do("recovers") // what hung beyond the end
	}
}

// do does a step. It tells whether it understood.
func (g *stage) do(step string) bool {
	who, what, _ := strings.Cut(step, " ")
	switch {
	case who == "drain":
		if what == "" {
			what = "condition"
		}
		g.srv.BeginDrain(what)
		return true
	case step == "second signal":
		g.srv.Close()
		return true
	case what == "connects" || what == "dials":
		n := 1
		if _, count, ok := strings.Cut(who, "*"); ok {
			n, _ = strconv.Atoi(count)
		}
		g.names = append(g.names, who)
		for range n {
			a := newActor(g.listener.dial(), g.tls)
			g.clients[who] = append(g.clients[who], a)
			if a.conn != nil && what == "connects" {
				a.send(optionBytes("GO"), false)
			}
		}
		return true
	}
	for i, d := range g.disks {
		if g.srv.Exports[i].Name == who {
			return d.do(what)
		}
	}
	known := len(g.clients[who]) > 0
	for _, a := range g.clients[who] {
		known = known && a.do(what)
	}
	return known
}

// take tells what was seen since the last time.
func (g *stage) take() string {
	var all []string
	p := g.srv.Phase()
	if p != g.phase && p != Ended {
		all = append(all, p.String())
	}
	for _, name := range g.names {
		if s := together(g.clients[name]); s != "" {
			all = append(all, name+": "+s)
		}
	}
	for i, d := range g.disks {
		if s := d.take(); s != "" {
			all = append(all, g.srv.Exports[i].Name+": "+s)
		}
	}
	if p != g.phase && p == Ended {
		r := g.srv.Report()
		s := fmt.Sprintf("Ended by %s after %v: exit %d, %d cut off", r.Condition, r.FinishedAt.Sub(r.StartedAt), r.ExitCode, r.ClientsCut)
		if r.Error != "" {
			s += ", " + r.Error
		}
		all = append(all, s)
	}
	g.phase = p
	return strings.Join(all, "; ")
}

// together tells what clients of one name saw: once if it is the same.
func together(clients []*actor) string {
	count := map[string]int{}
	var order []string
	for _, a := range clients {
		s := a.take()
		if count[s]++; count[s] == 1 {
			order = append(order, s)
		}
	}
	if len(order) == 1 {
		return order[0]
	}
	for i, s := range order {
		if s == "" {
			s = "nothing"
		}
		order[i] = fmt.Sprintf("%d %s", count[order[i]], s)
	}
	return strings.Join(order, " / ")
}
