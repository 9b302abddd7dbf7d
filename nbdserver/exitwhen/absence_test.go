package exitwhen

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// visit is a client's: it comes and leaves, in seconds after the start of
// serving.
type visit struct{ from, to time.Duration }

const never = -1

func TestAbsence(t *testing.T) {
	for _, tt := range []struct {
		name    string
		make    func(string, Options) (Condition, error)
		arg     string
		visits  []visit
		happens time.Duration // in seconds; never within the hour
	}{
		{"idle from the start", Idle, "10s", nil, 10},
		{"idle: a client in time", Idle, "10s", []visit{{9, 30}}, 40},
		{"idle: a client too late", Idle, "10s", []visit{{11, 30}}, 10},
		{"idle: counted from the last one", Idle, "10s", []visit{{1, 3}, {5, 8}, {16, 17}}, 27},
		{"idle: two at a time", Idle, "10s", []visit{{1, 30}, {2, 5}}, 40},
		{"idle: handed over without a gap", Idle, "10s", []visit{{1, 20}, {20, 40}}, 50},
		{"idle: somebody stays", Idle, "10s", []visit{{1, 3601}}, never},
		{"last: nobody comes", LastClientLeaves, "0s", nil, never},
		{"last: at once", LastClientLeaves, "0s", []visit{{7, 9}}, 9},
		{"last: of two", LastClientLeaves, "0s", []visit{{7, 9}, {8, 20}}, 20},
		{"last: after the grace", LastClientLeaves, "5s", []visit{{7, 9}}, 14},
		{"last: back within the grace", LastClientLeaves, "5s", []visit{{7, 9}, {13, 15}}, 20},
		{"last: back after the grace", LastClientLeaves, "5s", []visit{{7, 9}, {15, 16}}, 14},
		{"last: somebody stays", LastClientLeaves, "5s", []visit{{7, 9}, {8, 3601}}, never},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var clients Clients
				c := made(t)(tt.make(tt.arg, Options{Clients: &clients}))
				time.Sleep(time.Hour) // what comes before serving isn't counted
				check(t, c, false)
				start := time.Now()
				for i := range tt.visits {
					v := &tt.visits[i]
					time.AfterFunc(v.from*time.Second, func() { clients.Connected(v) })
					time.AfterFunc(v.to*time.Second, func() { clients.Left(v) })
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				err := c.Watch(ctx)
				took := time.Since(start)
				if tt.happens == never {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("Watch: %v after %v", err, took)
					}
					check(t, c, false)
				} else if err != nil || took != tt.happens*time.Second {
					t.Errorf("Watch: %v after %v, want %d s", err, took, tt.happens)
				} else {
					clients.Connected("late") // it stays so
					check(t, c, true)
					ok(t, c.Watch(ctx))
				}
				time.Sleep(2 * time.Hour) // the visits end
			})
		})
	}
}

// A watch that was canceled goes on from where it was.
func TestAbsenceWatchedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := made(t)(Idle("10s", Options{Clients: &Clients{}}))
		ctx, cancel := context.WithTimeout(t.Context(), 9*time.Second)
		defer cancel()
		if err := c.Watch(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Watch: %v", err)
		}
		start := time.Now()
		ok(t, c.Watch(t.Context()))
		if took := time.Since(start); took != time.Second {
			t.Errorf("the second Watch took %v", took)
		}
	})
}

// A connection that never became a client ends: that is nobody's leaving.
func TestLeavingOfStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var clients Clients
		c := made(t)(LastClientLeaves("0s", Options{Clients: &clients}))
		watching := startWatch(t, c)
		synctest.Wait()
		for _, came := range []bool{false, true} {
			if came {
				clients.Connected("a client")
			}
			clients.Left("a probe")
			synctest.Wait()
			select {
			case err := <-watching.result:
				t.Fatalf("Watch returned %v; a client came: %v", err, came)
			default:
			}
		}
		clients.Left("a client")
		watching.happens()
	})
}

// Any number of clients come and go at once; in the end nobody is there.
func TestClientsAtOnce(t *testing.T) {
	var clients Clients
	c := made(t)(Idle("1ns", Options{Clients: &clients}))
	clients.Connected("the first")
	watching := startWatch(t, c)
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			for range 100 {
				clients.Connected(i)
				clients.Left(i)
			}
		})
	}
	all.Wait()
	select {
	case err := <-watching.result:
		t.Fatalf("Watch returned %v while a client was there", err)
	default:
	}
	clients.Left("the first")
	watching.happens()
}

func TestAbsenceNames(t *testing.T) {
	o := Options{Clients: &Clients{}}
	for want, c := range map[string]Condition{
		"idle=5m0s":              made(t)(Idle("300s", o)),
		"last-client-leaves=10s": made(t)(LastClientLeaves("10s", o)),
		"last-client-leaves=0s":  made(t)(LastClientLeaves("0", o)),
	} {
		if c.String() != want {
			t.Errorf("String() = %q, want %q", c, want)
		}
	}
	for _, arg := range []string{"", "0", "0s", "-1s", "10", "soon"} {
		c, err := Idle(arg, o)
		refused(t, c, err, "isn't a duration over zero")
	}
	for _, arg := range []string{"", "-1s", "10", "soon"} {
		c, err := LastClientLeaves(arg, o)
		refused(t, c, err, "isn't a grace")
	}
	c, err := Idle("1s", unpolled)
	refused(t, c, err, "set Options.Clients")
}
