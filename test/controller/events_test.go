package controller_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/serverstatus"
)

// events are those about an export, each as "TYPE REASON", with how often it was told.
func (w *world) events(name string) map[string]int {
	w.Helper()
	var list eventsv1.EventList
	if err := kube.List(context.Background(), &list, client.InNamespace(w.ns)); err != nil {
		w.Fatal(err)
	}
	out := map[string]int{}
	for _, ev := range list.Items {
		if ev.Regarding.Name != name {
			continue
		}
		if ev.Regarding.Kind != "NBDExport" || ev.Regarding.UID == "" || ev.Action == "" || ev.Note == "" || len(ev.Note) > 1024 || ev.ReportingController != "nbdexport" {
			w.Errorf("an Event lacks something: %+v", ev)
		}
		n := 1
		if ev.Series != nil {
			n = int(ev.Series.Count)
		}
		out[ev.Type+" "+ev.Reason] += n
	}
	return out
}

// expectEvents waits until these Events are there, each told once, and no others.
func (w *world) expectEvents(name string, want ...string) {
	w.Helper()
	all := map[string]int{}
	for _, e := range want {
		all[e] = 1
	}
	eventually(w.T, "Events of "+name, func() string {
		if got := w.events(name); !maps.Equal(got, all) {
			return fmt.Sprintf("%v, want %v", got, all)
		}
		return ""
	})
}

// TestEventsOfALife: each Event is told once, whatever comes and goes, and by whichever
// operator.
func TestEventsOfALife(t *testing.T) {
	t.Parallel()
	full := &servers{answers: map[string]serverstatus.Answer{
		"10.0.0.1:10810": {Connections: 1, Full: []serverstatus.Full{{Volume: "disk", Limit: 1 << 30}}}}, asked: map[string]int{}}
	w := &world{T: t, ns: namespace(t), ask: full.ask}
	w.start()
	t.Cleanup(func() { w.stop() })
	w.user("vm", "node-1", "")
	w.export("e", strings.Replace(untilVMGone, "{memory: {size: 1Mi}}", "{persistentVolumeClaim: {claimName: disk}}", 1))
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonClaimNotFound)
	w.expectEvents("e", "Warning ClaimNotFound")
	w.stop()
	w.start()
	w.settled("a")
	w.claim("disk", corev1.ReadWriteMany, false)
	pod := w.pod("nbd-e", nil)

	// A server that fails at each start, and one that comes and goes.
	failing := func(s *corev1.PodStatus) {
		s.Phase, s.Conditions = corev1.PodRunning, nil
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "nbdserver", State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: "disk.img: no such file"}}}}
	}
	runs := func(ready corev1.ConditionStatus) func(s *corev1.PodStatus) {
		return func(s *corev1.PodStatus) {
			s.Phase, s.PodIP, s.PodIPs = corev1.PodRunning, "10.0.0.1", []corev1.PodIP{{IP: "10.0.0.1"}}
			s.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
			s.ContainerStatuses = []corev1.ContainerStatus{{Name: "nbdserver", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		}
	}
	w.bind(pod, "node-1")
	for range 3 {
		w.kubelet(pod, failing)
		w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonServerFailed)
		w.kubelet(pod, runs(corev1.ConditionFalse))
		w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonNotReady)
	}
	flap := func() {
		for range 3 {
			w.kubelet(pod, runs(corev1.ConditionTrue))
			w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
			w.kubelet(pod, runs(corev1.ConditionFalse))
			w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonNotReady)
		}
	}
	flap()
	w.expect("e", v1alpha1.ConditionDegraded, yes, v1alpha1.ReasonScratchFull)
	life := []string{"Warning ClaimNotFound", "Warning ServerFailed", "Normal Serving", "Warning ScratchFull"}
	w.expectEvents("e", life...)
	if n := count(t, w.metrics, "nbdexport_time_to_ready_seconds"); n != 1 {
		t.Errorf("it was ready for the first time %v times", n)
	}
	w.stop()
	w.start()
	flap()
	if n := count(t, w.metrics, "nbdexport_time_to_ready_seconds"); n != 0 {
		t.Errorf("for the new operator it was ready for the first time %v times", n)
	}

	w.end(pod, "file-created=/run/nbdexport/stop", 0)
	w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonDrained)
	w.settled("b")
	w.expectEvents("e", append(life, "Normal ExitConditionMet", "Normal Drained")...)
	eventually(t, "a drain", func() string {
		if n := count(t, w.metrics, "nbdexport_drains_total", "Drained"); n != 1 {
			return fmt.Sprintf("%v were counted", n)
		}
		return ""
	})
}

// count is the value of a counter with these values of labels, or how many a histogram has seen.
func count(t *testing.T, c prometheus.Collector, name string, labels ...string) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.Metric {
			var values []string
			for _, l := range m.Label {
				values = append(values, l.GetValue())
			}
			if slices.Equal(values, labels) {
				return m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	t.Fatalf("there is no %s with %q", name, labels)
	return 0
}
