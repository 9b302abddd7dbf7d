package main

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver"
	"github.com/nbdexport/nbdexport/nbdserver/backend/memory"
	"github.com/nbdexport/nbdexport/nbdserver/exitwhen"
)

// pipeListener accepts what is dialed in memory.
type pipeListener struct {
	dialed chan net.Conn
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.dialed:
		return nc, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { close(l.closed); return nil }
func (l *pipeListener) Addr() net.Addr { return stdioAddr{} }

// Numbers of the protocol, written out here.
const (
	optAbort, optList, optGo = 2, 3, 7
	repAck                   = 1
	repShutdown              = 1<<31 + 7
)

// dial connects to l and reads the greeting.
func dial(t *testing.T, l *pipeListener) net.Conn {
	t.Helper()
	here, there := net.Pipe()
	l.dialed <- there
	if _, err := io.ReadFull(here, make([]byte, 18)); err != nil {
		t.Fatalf("the greeting: %v", err)
	}
	if _, err := here.Write([]byte{0, 0, 0, 3}); err != nil {
		t.Fatalf("the client's flags: %v", err)
	}
	return here
}

// choose sends an option and returns the type of its last reply.
func choose(t *testing.T, nc net.Conn, opt uint32, payload string) uint32 {
	t.Helper()
	b := binary.BigEndian.AppendUint32([]byte("IHAVEOPT"), opt)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(payload))), payload...)
	if _, err := nc.Write(b); err != nil {
		t.Fatalf("option %d: %v", opt, err)
	}
	for {
		h := make([]byte, 20)
		if _, err := io.ReadFull(nc, h); err != nil {
			t.Fatalf("reply to option %d: %v", opt, err)
		}
		if _, err := io.CopyN(io.Discard, nc, int64(binary.BigEndian.Uint32(h[16:]))); err != nil {
			t.Fatal(err)
		}
		if typ := binary.BigEndian.Uint32(h[12:]); typ == repAck || typ >= 1<<31 {
			return typ
		}
	}
}

// read checks that a client is served.
func read(t *testing.T, nc net.Conn) {
	t.Helper()
	b := make([]byte, 28)
	binary.BigEndian.PutUint32(b, 0x25609513)
	b[27] = 1
	if _, err := nc.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(nc, b[:17]); err != nil || binary.BigEndian.Uint32(b[4:]) != 0 {
		t.Fatalf("a read is answered %x, %v", b[:17], err)
	}
}

// An idle server ends after a minute; a client comes about then.
func TestClientAtTheLastMoment(t *testing.T) {
	const goDefault = "\x00\x00\x00\x00\x00\x00" // the default export, no requests for information
	for _, tt := range []struct {
		name string
		// client returns whether it was served.
		client func(t *testing.T, l *pipeListener) bool
		after  time.Duration // when the drain begins
		random bool          // whether it is served is a matter of luck
		served bool
	}{
		{
			name: "just in time", served: true, after: 200 * time.Second,
			client: func(t *testing.T, l *pipeListener) bool {
				time.Sleep(time.Minute - 1)
				nc := dial(t, l)
				defer nc.Close()
				typ := choose(t, nc, optGo, goDefault)
				time.Sleep(80*time.Second + 1)
				read(t, nc)
				return typ == repAck
			},
		},
		{
			name: "who only asks is no client", after: time.Minute,
			client: func(t *testing.T, l *pipeListener) bool {
				time.Sleep(time.Minute - time.Second)
				nc := dial(t, l)
				defer nc.Close()
				choose(t, nc, optList, "")
				choose(t, nc, optAbort, "")
				return false
			},
		},
		{
			name: "in the middle of the negotiation", after: time.Minute,
			client: func(t *testing.T, l *pipeListener) bool {
				time.Sleep(time.Minute - time.Second)
				nc := dial(t, l)
				defer nc.Close()
				time.Sleep(2 * time.Second)
				for range 2 {
					if typ := choose(t, nc, optGo, goDefault); typ != repShutdown {
						t.Errorf("the option is answered %#x", typ)
					}
				}
				return false
			},
		},
		{
			name: "at the very moment", random: true,
			client: func(t *testing.T, l *pipeListener) bool {
				time.Sleep(time.Minute - time.Second)
				nc := dial(t, l)
				defer nc.Close()
				time.Sleep(time.Second)
				switch typ := choose(t, nc, optGo, goDefault); typ {
				case repAck: // and now it is served for as long as it stays
					for range 10 {
						read(t, nc)
						time.Sleep(time.Hour)
					}
					return true
				case repShutdown:
					return false
				default:
					t.Fatalf("the option is answered %#x", typ)
					return false
				}
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rounds := 1
			if tt.random {
				rounds = 100
			}
			for range rounds {
				synctest.Test(t, func(t *testing.T) {
					m, err := memory.New(4096)
					if err != nil {
						t.Fatal(err)
					}
					clients := &exitwhen.Clients{}
					idle, err := exitwhen.Idle("1m", exitwhen.Options{Clients: clients})
					if err != nil {
						t.Fatal(err)
					}
					srv := &nbdserver.Server{Exports: []*nbdserver.Export{{Name: "disk", Backend: m}}, ConnState: follow(clients)}
					l := &pipeListener{dialed: make(chan net.Conn), closed: make(chan struct{})}
					start := time.Now()
					go func() {
						if err := srv.Serve(l); !errors.Is(err, nbdserver.ErrServerClosed) {
							t.Error(err)
						}
					}()
					go func() {
						fired, _ := watch(t.Context(), exitwhen.NewSet(nil, idle))
						srv.BeginDrain((<-fired).Condition)
					}()
					if served := tt.client(t, l); served != tt.served && !tt.random {
						t.Errorf("the client was served: %v", served)
					}
					<-srv.Done()
					r := srv.Report()
					if after := r.StartedAt.Sub(start); after != tt.after && !tt.random {
						t.Errorf("the drain began after %v, want %v", after, tt.after)
					}
					if r.Condition != "idle=1m0s" || !r.Clean() {
						t.Errorf("the report is %+v", r)
					}
				})
			}
		})
	}
}
