package controller_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/serverstatus"
)

// servers stand for those in the pods: their answers, by address.
type servers struct {
	mu      sync.Mutex
	answers map[string]serverstatus.Answer
	asked   map[string]int
}

func (s *servers) ask(_ context.Context, address string) (serverstatus.Answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[address]++
	a, ok := s.answers[address]
	if !ok {
		return a, errors.New("no route")
	}
	return a, nil
}

// say has the server at an address answer from now on, and returns how often it was asked.
func (s *servers) say(ip string, a serverstatus.Answer) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[ip+":10810"] = a
	return s.asked[ip+":10810"]
}

func (s *servers) times(ip string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[ip+":10810"]
}

// address gives a pod its address.
func (w *world) address(pod *corev1.Pod, ip string) {
	w.Helper()
	w.kubelet(pod, func(s *corev1.PodStatus) { s.PodIP, s.PodIPs = ip, []corev1.PodIP{{IP: ip}} })
}

// connections waits until the status says how many there are; -1 is absent.
func (w *world) connections(name string, want int32) {
	w.Helper()
	slowly(w.T, fmt.Sprintf("the connections of %s should be %d", name, want), func() string {
		got := int32(-1)
		if c := w.read(name).Status.Connections; c != nil {
			got = *c
		}
		if got != want {
			return fmt.Sprintf("they are %d", got)
		}
		return ""
	})
}

// slowly is eventually for what comes with the next question to a server, which may be 12
// seconds away.
func slowly(t *testing.T, what string, ask func() (complaint string)) {
	t.Helper()
	for end := time.Now().Add(12 * time.Second); time.Now().Before(end) && ask() != ""; {
		time.Sleep(50 * time.Millisecond)
	}
	eventually(t, what, ask)
}

// TestConnections: the status has what the server says, and is written when that has
// changed.
func TestConnections(t *testing.T) {
	t.Parallel()
	s := &servers{answers: map[string]serverstatus.Answer{}, asked: map[string]int{}}
	w := &world{T: t, ns: namespace(t), ask: s.ask}
	w.start()
	t.Cleanup(func() { w.stop() })
	steady, busy, far := serving(w, "steady"), serving(w, "busy"), serving(w, "far")
	s.say("10.0.0.1", serverstatus.Answer{Connections: 2})
	s.say("10.0.0.2", serverstatus.Answer{})
	w.address(steady, "10.0.0.1")
	w.address(busy, "10.0.0.2")
	w.address(far, "10.0.0.3")
	w.connections("steady", 2)
	w.connections("busy", 0)
	before := w.read("steady")
	asked := s.say("10.0.0.2", serverstatus.Answer{Connections: 5, Full: []serverstatus.Full{{Volume: "a", Limit: 1 << 30}}})
	w.connections("busy", 5)
	if s.times("10.0.0.2") == asked {
		t.Error("the new number came without a question")
	}
	e := w.expect("busy", v1alpha1.ConditionDegraded, yes, v1alpha1.ReasonScratchFull)
	if m := message(e, v1alpha1.ConditionDegraded); !strings.Contains(m, "the volume a (limit 1Gi)") {
		t.Error(m)
	}
	w.expect("busy", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)

	// Nothing is written for an answer that is the same, nor for none.
	slowly(t, "another question", func() string {
		if s.times("10.0.0.1") < 2 || s.times("10.0.0.3") < 2 {
			return "there is none"
		}
		return ""
	})
	w.settled("x")
	if now := w.read("steady"); now.ResourceVersion != before.ResourceVersion {
		t.Errorf("written without need: %+v\n%+v", before.Status, now.Status)
	}
	if e := w.read("far"); e.Status.Connections != nil {
		t.Errorf("%d connections of a server that nobody reaches", *e.Status.Connections)
	}

	// A new operator, before it has asked, leaves what is there.
	w.stop()
	s.mu.Lock()
	delete(s.answers, "10.0.0.1:10810")
	s.mu.Unlock()
	before = w.read("steady")
	w.start()
	w.settled("y")
	if now := w.read("steady"); now.ResourceVersion != before.ResourceVersion {
		t.Errorf("a new operator has written: %+v\n%+v", before.Status, now.Status)
	}

	// In its drain it is asked too; after its end there is nothing to say.
	w.remove(w.read("busy"))
	w.deleting(busy)
	w.connections("busy", 5)
	w.end(steady, "control=drain", 0)
	e = w.expect("steady", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonDrained)
	if e.Status.Connections != nil {
		t.Errorf("%d connections after the end", *e.Status.Connections)
	}
	w.end(busy, "signal=SIGTERM", 0)
	w.gone(&v1alpha1.NBDExport{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "busy"}})
}
