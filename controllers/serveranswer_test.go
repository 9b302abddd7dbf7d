package controllers

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/serverstatus"
)

// TestListen asks a server for as long as it runs, and no other.
func TestListen(t *testing.T) {
	asked := make(chan string, 8)
	r := &Reconciler{Servers: serverstatus.New(func(_ context.Context, address string) (serverstatus.Answer, error) {
		asked <- address
		return serverstatus.Answer{Connections: 3}, nil
	})}
	go r.Servers.Start(t.Context())
	o := scene()
	if a, known := r.listen(o); a != nil || !known {
		t.Errorf("without a pod: %v, %v", a, known)
	}
	pod := withPod(o)
	pod.Status.PodIP = "fd00::7"
	if a, known := r.listen(o); a != nil || !known {
		t.Errorf("before the server runs: %v, %v", a, known)
	}
	server(pod, corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
	if _, known := r.listen(o); known {
		t.Error("an answer is known before anybody has asked")
	}
	if got := <-asked; got != "[fd00::7]:10810" {
		t.Errorf("asked %s", got)
	}
	<-r.Servers.Changes()
	deleted(pod)
	if a, known := r.listen(o); !known || a == nil || a.Connections != 3 {
		t.Errorf("in its drain: %v, %v", a, known)
	}
	over(pod, 0, "")
	if a, known := r.listen(o); a != nil || !known {
		t.Errorf("after its end: %v, %v", a, known)
	}
	if _, known := r.Servers.Latest(client.ObjectKeyFromObject(o.export)); known {
		t.Error("a server that has ended is followed")
	}

	server(pod, corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
	pod.OwnerReferences[0].UID = "another"
	if a, known := r.listen(o); a != nil || !known {
		t.Errorf("the pod of somebody else: %v, %v", a, known)
	}
}

// TestHear writes down what the server says: a number, and that a scratch is full.
func TestHear(t *testing.T) {
	o := scene()
	e := o.export
	full := []serverstatus.Full{{Volume: "disk", Limit: 64 << 20}, {Volume: "made-up", Limit: 1}}
	for _, step := range []struct {
		name        string
		answer      *serverstatus.Answer
		known       bool
		connections int32 // -1 is absent
		degraded    string
	}{
		{"not asked yet", nil, false, -1, ""},
		{"idle", &serverstatus.Answer{}, true, 0, ""},
		{"busy", &serverstatus.Answer{Connections: 3}, true, 3, ""},
		{"a new operator", nil, false, 3, ""},
		{"full", &serverstatus.Answer{Connections: 2, Full: full}, true, 2, "True ScratchFull"},
		{"a new operator again", nil, false, 2, "True ScratchFull"},
		{"no answer", nil, true, -1, "True ScratchFull"},
		{"room again", &serverstatus.Answer{Full: full[1:]}, true, 0, "False ScratchFreed"},
		{"nobody's scratch", &serverstatus.Answer{Full: full[1:]}, true, 0, "False ScratchFreed"},
	} {
		o.answer, o.answerKnown = step.answer, step.known
		var p plan
		p.hear(o)
		e.Status = ptr.To(statusOf(e, p))
		got := int32(-1)
		if c := e.Status.Connections; c != nil {
			got = *c
		}
		c := conditionOf(e.GetStatus(), v1alpha1.ConditionDegraded)
		if degraded := strings.TrimSpace(string(c.Status) + " " + c.Reason); got != step.connections || degraded != step.degraded {
			t.Errorf("%s: %d connections, Degraded %s; want %d, %s", step.name, got, degraded, step.connections, step.degraded)
		}
		if c.Status == metav1.ConditionTrue && (!strings.Contains(c.Message, "the volume disk (limit 64Mi)") || strings.Contains(c.Message, "made-up")) {
			t.Errorf("%s: %s", step.name, c.Message)
		}
	}
}

// TestFirstReady is recorded once.
func TestFirstReady(t *testing.T) {
	e := scene().export
	step := func(say []verdict) *metav1.Time {
		e.Status = ptr.To(statusOf(e, plan{say: say}))
		return e.Status.FirstReadyAt
	}
	if at := step(underWay(v1alpha1.ReasonStarting, "x")); at != nil {
		t.Errorf("ready at %v", at)
	}
	first := step(ready("x"))
	if first == nil || time.Since(first.Time) > time.Hour {
		t.Fatalf("ready at %v", first)
	}
	past := metav1.NewTime(noon)
	e.Status.FirstReadyAt = &past
	step(underWay(v1alpha1.ReasonNotReady, "x"))
	if at := step(ready("x")); !at.Equal(&past) {
		t.Errorf("ready at %v, want %v", at, past)
	}
}
