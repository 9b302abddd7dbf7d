package serverstatus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// fleet is what servers there are, and a Watcher that asks them. It has to be made in
// a bubble of synctest.
type fleet struct {
	*testing.T
	*Watcher

	mu sync.Mutex
	// answers are those of the servers, by address. One that isn't there is silent.
	answers map[string]func() (Answer, error)
	// asked are the times at which each was asked.
	asked map[string][]time.Time
	// busy is how many are being asked, and most how many ever were.
	busy, most int
	// changed are the exports that were told of.
	changed map[string]int
}

func newFleet(t *testing.T) *fleet {
	f := &fleet{T: t, answers: map[string]func() (Answer, error){}, asked: map[string][]time.Time{}, changed: map[string]int{}}
	f.Watcher = New(f.fetch)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := f.Start(ctx); err != nil {
			t.Error(err)
		}
	})
	all.Go(func() {
		for {
			select {
			case e := <-f.Changes():
				f.mu.Lock()
				f.changed[e.Object.GetNamespace()+"/"+e.Object.GetName()]++
				f.mu.Unlock()
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() { cancel(); all.Wait() })
	time.Sleep(round / 2) // what the tests do lies between two rounds
	return f
}

func (f *fleet) fetch(ctx context.Context, address string) (Answer, error) {
	f.mu.Lock()
	f.asked[address] = append(f.asked[address], time.Now())
	f.busy++
	f.most = max(f.most, f.busy)
	answer := f.answers[address]
	f.mu.Unlock()
	defer func() { f.mu.Lock(); f.busy--; f.mu.Unlock() }()
	if answer == nil {
		<-ctx.Done()
		return Answer{}, ctx.Err()
	}
	return answer()
}

// says has the server at an address say a number of connections.
func (f *fleet) says(address string, n int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[address] = func() (Answer, error) { return Answer{Connections: n}, nil }
}

// fails has it not answer.
func (f *fleet) fails(address string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[address] = func() (Answer, error) { return Answer{}, errors.New("no route") }
}

// expect checks what is known of an export, "?" for nothing, "-" for no answer, and how
// often that has changed.
func (f *fleet) expect(name, want string, changes int) {
	f.Helper()
	synctest.Wait()
	got := "?"
	if a, known := f.Latest(export(name)); known && a == nil {
		got = "-"
	} else if known {
		got = fmt.Sprint(a.Connections)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if got != want || f.changed["vms/"+name] != changes {
		f.Errorf("%s: %s after %d changes, want %s after %d", name, got, f.changed["vms/"+name], want, changes)
	}
}

func (f *fleet) times(address string) []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[address]
}

func export(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "vms", Name: name}
}

// TestWatch follows a server through its life.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.expect("e", "?", 0)
		f.says("a:1", 0)
		f.Follow(export("e"), "1", "a:1")
		f.expect("e", "?", 0)
		time.Sleep(2 * time.Second)
		f.expect("e", "0", 1)

		// Whatever happens at the server, who follows hears of it once in ten
		// seconds at most, and of nothing unless something has changed.
		time.Sleep(time.Minute)
		f.expect("e", "0", 1)
		f.says("a:1", 2)
		time.Sleep(time.Minute)
		f.expect("e", "2", 2)
		f.Follow(export("e"), "1", "a:1")
		time.Sleep(time.Second)
		asked := f.times("a:1")
		if len(asked) < 10 || len(asked) > 13 {
			t.Errorf("asked %d times in two minutes", len(asked))
		}
		for i, at := range asked[1:] {
			if at.Sub(asked[i]) < 10*time.Second {
				t.Errorf("asked again after %v", at.Sub(asked[i]))
			}
		}

		// A new pod is asked at once.
		f.says("b:1", 7)
		f.Follow(export("e"), "2", "b:1")
		f.expect("e", "?", 2)
		time.Sleep(2 * time.Second)
		f.expect("e", "7", 3)

		f.Forget(export("e"))
		f.expect("e", "?", 3)
		before := len(f.times("b:1"))
		time.Sleep(time.Hour)
		if n := len(f.times("b:1")); n != before {
			t.Errorf("asked %d times after it was forgotten", n-before)
		}
	})
}

// TestFull tells of a scratch that is full although the number of connections is the same.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.says("a:1", 1)
		f.Follow(export("e"), "1", "a:1")
		time.Sleep(time.Minute)
		f.mu.Lock()
		f.answers["a:1"] = func() (Answer, error) { return Answer{1, []Full{{"root", 1}}}, nil }
		f.mu.Unlock()
		time.Sleep(time.Minute)
		f.expect("e", "1", 2)
		if a, _ := f.Latest(export("e")); len(a.Full) != 1 {
			t.Errorf("%+v", a)
		}
	})
}

// TestNoAnswer: an answer holds on for a while when the server doesn't answer, and who
// never does is asked seldom.
func TestNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.says("a:1", 4)
		f.Follow(export("e"), "1", "a:1")
		time.Sleep(5 * time.Second)
		f.fails("a:1")
		time.Sleep(20 * time.Second) // one or two questions
		f.expect("e", "4", 1)
		time.Sleep(30 * time.Second)
		f.expect("e", "-", 2)

		time.Sleep(time.Hour)
		before := len(f.times("a:1"))
		time.Sleep(time.Hour)
		if n := len(f.times("a:1")) - before; n < 9 || n > 12 {
			t.Errorf("asked %d times in an hour", n)
		}
		f.expect("e", "-", 2)

		f.says("a:1", 4)
		time.Sleep(7 * time.Minute)
		f.expect("e", "4", 3)
		before = len(f.times("a:1"))
		time.Sleep(time.Minute)
		if n := len(f.times("a:1")) - before; n < 4 {
			t.Errorf("asked %d times in the minute after it has answered", n)
		}
	})
}

// TestSilentServers: servers that take the question and say nothing hold nobody up for long,
// and are never asked by more than are allowed at the same time.
func TestSilentServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		for i := range 200 {
			f.Follow(export(fmt.Sprintf("silent-%d", i)), "1", fmt.Sprintf("silent-%d:1", i))
		}
		f.says("a:1", 1)
		f.Follow(export("e"), "1", "a:1")
		time.Sleep(10 * time.Minute)
		f.expect("e", "1", 1)
		f.expect("silent-0", "-", 1)
		if f.most != parallel {
			t.Errorf("%d were asked at the same time, want %d", f.most, parallel)
		}
		asked := f.times("a:1")
		time.Sleep(10 * time.Minute)
		asked = f.times("a:1")[len(asked):]
		for i, at := range asked[1:] {
			// 10 s and what chance and the next round add, and one timeout for all who
			// are silent: they have no more than a part of the places by now.
			if d := at.Sub(asked[i]); d > 17*time.Second {
				t.Errorf("asked after %v only", d)
			}
		}
	})
}

// TestManyServers asks a thousand, spread over the time.
func TestManyServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		for i := range 1000 {
			address := fmt.Sprintf("%d:1", i)
			f.says(address, 1)
			f.Follow(export(fmt.Sprint(i)), "1", address)
		}
		time.Sleep(20 * time.Minute)
		rounds := map[int64]int{}
		f.mu.Lock()
		for _, times := range f.asked {
			for _, at := range times[len(times)-6:] {
				rounds[at.Unix()]++
			}
		}
		total := 0
		for _, n := range f.changed {
			total += n
		}
		f.mu.Unlock()
		for at, n := range rounds {
			if n > 300 {
				t.Errorf("%d are asked in the second %d", n, at)
			}
		}
		if total != 1000 {
			t.Errorf("%d changes", total)
		}
	})
}

// TestForgottenWhileAsked forgets a server, and follows another one, while an answer is
// under way: that has no effect.
func TestForgottenWhileAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		slow := func(n int32) func() (Answer, error) {
			return func() (Answer, error) { time.Sleep(time.Second); return Answer{Connections: n}, nil }
		}
		f.answers["a:1"], f.answers["b:1"] = slow(1), slow(2)
		f.Follow(export("e"), "1", "a:1")
		f.Follow(export("gone"), "1", "a:1")
		time.Sleep(round) // both are being asked
		if len(f.times("a:1")) != 2 {
			t.Fatalf("asked %v", f.times("a:1"))
		}
		f.Follow(export("e"), "2", "b:1")
		f.Forget(export("gone"))
		time.Sleep(700 * time.Millisecond)
		f.expect("e", "?", 0)
		f.expect("gone", "?", 0)
		time.Sleep(3 * time.Second)
		f.expect("e", "2", 1)
		if strings.Contains(fmt.Sprint(f.changed), "gone") {
			t.Error("told of a server that was forgotten")
		}
	})
}

// TestEnd ends in the middle of a question and with nobody who receives.
func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New(func(ctx context.Context, address string) (Answer, error) {
			if address == "silent" {
				<-ctx.Done()
			}
			return Answer{}, ctx.Err()
		})
		for i := range 2 * parallel {
			w.Follow(export(fmt.Sprint(i)), "1", []string{"silent", "a:1"}[i%2])
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- w.Start(ctx) }()
		time.Sleep(3 * time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
