package controller_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// lease reads who leads, and since when.
func lease(t *testing.T) (l coordinationv1.LeaseSpec) {
	t.Helper()
	var obj coordinationv1.Lease
	if err := kube.Get(context.Background(), client.ObjectKey{Namespace: "nbdexport-system", Name: "nbdexport-manager"}, &obj); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	return obj.Spec
}

// TestTwoManagers: one leads; when it stops, the other one takes over at once, and when
// it is killed, after the lease's time. An export that serves notices neither.
func TestTwoManagers(t *testing.T) {
	t.Parallel()
	w := &world{T: t, ns: namespace(t)}
	first := startManager(t, "--namespaces="+w.ns)
	vm, pod := running(w)
	leader := func(not string) string {
		var who string
		eventually(t, "a new leader", func() string {
			if who = ptr.Deref(lease(t).HolderIdentity, ""); who == "" || who == not {
				return "there is none"
			}
			return ""
		})
		return who
	}
	one := leader("")
	second := startManager(t, "--namespaces="+w.ns)
	e := w.read("e")

	holders := watchLease(t)
	first.stop()
	two := leader(one)
	// It was given away, and not waited for.
	if got := holders(); !slices.Equal(got, []string{"", two}) {
		t.Errorf("after %s the lease was held by %q, want nobody and then %s", one, got, two)
	}
	w.export("f", "volumes: [{name: a, source: {memory: {size: 1Mi}}}]\ntls: {mode: Disabled}")
	w.pod("nbd-f", nil)

	third := startManager(t, "--namespaces="+w.ns)
	holders = watchLease(t)
	last := lease(t)
	second.kill()
	for end := time.Now().Add(time.Duration(*last.LeaseDurationSeconds) * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if ptr.Deref(lease(t).HolderIdentity, "") != two {
			break
		}
	}
	three := leader(two)
	if got := holders(); !slices.Equal(got, []string{three}) {
		t.Errorf("after %s, which was killed, the lease was held by %q, want %s", two, got, three)
	}
	if took := lease(t).AcquireTime.Sub(last.RenewTime.Time); took < time.Duration(*last.LeaseDurationSeconds)*time.Second {
		t.Errorf("it was taken %v after it was renewed", took)
	}
	w.export("g", "volumes: [{name: a, source: {memory: {size: 1Mi}}}]\ntls: {mode: Disabled}")
	w.pod("nbd-g", nil)

	untouched(t, pod, &corev1.Pod{})
	untouched(t, e, &v1alpha1.NBDExport{})
	w.remove(vm)
	w.deleting(pod)
	w.end(pod, "signal=SIGTERM", 0)
	w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonDrained)
	for _, m := range []*manager{first, second, third} {
		if strings.Contains(m.log(), "orbidden") {
			t.Errorf("a manager lacks a right:\n%s", m.log())
		}
	}
}

// watchLease follows the lease from now on. What it returns are its holders since, other
// than the one that has it now.
func watchLease(t *testing.T) func() []string {
	t.Helper()
	w, err := kube.Watch(t.Context(), &coordinationv1.LeaseList{}, client.InNamespace("nbdexport-system"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	last := ptr.Deref(lease(t).HolderIdentity, "")
	var mu sync.Mutex
	var holders []string
	go func() {
		for ev := range w.ResultChan() {
			l, ok := ev.Object.(*coordinationv1.Lease)
			if !ok {
				continue
			}
			mu.Lock()
			if who := ptr.Deref(l.Spec.HolderIdentity, ""); who != last {
				last = who
				holders = append(holders, who)
			}
			mu.Unlock()
		}
	}()
	return func() []string {
		want := ptr.Deref(lease(t).HolderIdentity, "")
		eventually(t, "the watch of the lease", func() string {
			mu.Lock()
			defer mu.Unlock()
			if last != want {
				return "it is at " + last
			}
			return ""
		})
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(holders)
	}
}
