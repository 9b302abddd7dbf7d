// Package serverstatus asks the servers of exports how they are doing. The pods
// hold no credentials with which they could write it down themselves.
package serverstatus

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

const (
	// interval is the least time between two questions to a server, and so between
	// two writes of a status for their answers. Up to a fifth is added by chance, so
	// that servers that were started together aren't asked together for ever.
	interval = 10 * time.Second
	// parallel is how many servers are asked at the same time.
	parallel = 16
	// patience is how many questions in a row go without an answer until the last
	// answer holds no more. From then on a server is asked at intervals that double,
	// so that those who don't answer don't use up the time of those who do.
	patience = 3
	// longest is the longest of these intervals.
	longest = 5 * time.Minute
	// round is how often it is looked who is to be asked.
	round = time.Second
)

// Watcher asks the servers that it is told to follow, again and again, and keeps
// what each said last. It is a manager's Runnable of the leader. All methods
// are safe to be called concurrently.
type Watcher struct {
	fetch   Fetch
	changes chan event.GenericEvent

	mu      sync.Mutex
	servers map[types.NamespacedName]*server
}

// server is what is known of the server of an export. The Watcher's mutex guards what
// changes.
type server struct {
	export  types.NamespacedName
	pod     types.UID
	address string

	// due is when it is asked next. It isn't asked twice at the same time.
	due    time.Time
	asking bool
	// misses counts the questions without an answer since the last one with one.
	misses int
	// known tells that last is the truth: the last answer, or nil if there is none any
	// more. Before that nobody knows.
	known bool
	last  *Answer
}

// New returns a Watcher that follows nobody yet.
func New(fetch Fetch) *Watcher {
	return &Watcher{fetch: fetch, changes: make(chan event.GenericEvent), servers: map[types.NamespacedName]*server{}}
}

// Changes tells of exports, by namespace and name, for which Latest has changed. They
// have to be received while Start runs.
func (w *Watcher) Changes() <-chan event.GenericEvent { return w.changes }

// Follow has the server of an export asked, which is in a pod and has an address,
// HOST:PORT. It takes the place of the one that was followed for the export before.
func (w *Watcher) Follow(export types.NamespacedName, pod types.UID, address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.servers[export]; s != nil && s.pod == pod && s.address == address {
		return
	}
	w.servers[export] = &server{export: export, pod: pod, address: address}
}

// Forget ends that the server of an export is asked. What is under way has no effect
// any more.
func (w *Watcher) Forget(export types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.servers, export)
}

// Latest is what the server of an export said last. It is nil for one that doesn't
// answer, and known is false for one that is new or isn't followed.
func (w *Watcher) Latest(export types.NamespacedName) (a *Answer, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.servers[export]
	if s == nil {
		return nil, false
	}
	return s.last, s.known
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: only who writes it down
// asks.
func (w *Watcher) NeedLeaderElection() bool { return true }

// Start asks until the context ends.
func (w *Watcher) Start(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	places := make(chan struct{}, parallel)
	again := time.NewTicker(round)
	defer again.Stop()
	for {
		for _, s := range w.due() {
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
			all.Go(func() {
				defer func() { <-places }()
				w.ask(ctx, s)
			})
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// due takes the servers whose turn it is.
func (w *Watcher) due() []*server {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	var out []*server
	for _, s := range w.servers {
		if !s.asking && !s.due.After(now) {
			s.asking = true
			out = append(out, s)
		}
	}
	return out
}

// ask asks a server and tells if that has changed anything.
func (w *Watcher) ask(ctx context.Context, s *server) {
	// Its turn may have come after it was forgotten.
	if !w.follows(s) {
		return
	}
	asking, cancel := context.WithTimeout(ctx, timeout)
	a, err := w.fetch(asking, s.address)
	cancel()
	if err != nil {
		ctrl.LoggerFrom(ctx).V(1).Info("a server doesn't tell its status", "export", s.export, "error", err.Error())
	}
	if ctx.Err() != nil || !w.heard(s, a, err == nil) {
		return
	}
	e := &v1alpha1.NBDExport{ObjectMeta: metav1.ObjectMeta{Namespace: s.export.Namespace, Name: s.export.Name}}
	select {
	case w.changes <- event.GenericEvent{Object: e}:
	case <-ctx.Done():
	}
}

func (w *Watcher) follows(s *server) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.servers[s.export] == s
}

// heard takes an answer, or that there was none, and tells whether Latest has
// changed by it.
func (w *Watcher) heard(s *server, a Answer, ok bool) (changed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.asking = false
	known, last := s.known, s.last
	if ok {
		s.misses, s.known, s.last = 0, true, &a
	} else if s.misses++; s.misses >= patience {
		s.known, s.last = true, nil
	}
	s.due = time.Now().Add(wait(s.misses))
	return w.servers[s.export] == s && s.known && (!known || !same(last, s.last))
}

// wait is how long to wait for the next question after a number of misses.
func wait(misses int) time.Duration {
	d := interval
	for ; misses >= patience && d < longest; misses-- {
		d *= 2
	}
	d = min(d, longest)
	return d + rand.N(d/5)
}
