package controllers

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// onCopy is a scene whose claim is CopyOnWrite and whose export was made an hour
// before noon.
func onCopy() *observed {
	o := scene()
	o.export.Spec.Volumes[0].Access = ptr.To(v1alpha1.CopyOnWrite)
	o.export.CreationTimestamp = metav1.NewTime(noon.Add(-time.Hour))
	return o
}

// wasServing has an export on record as ready since a minute before noon.
func wasServing(o *observed) {
	since := metav1.NewTime(noon.Add(-time.Minute))
	o.export.Status.FirstReadyAt = &since
	o.export.Status.Conditions = []metav1.Condition{
		{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, LastTransitionTime: since}}
}

// neverReady gives a pod the conditions of one that never was ready.
func neverReady(pod *corev1.Pod) {
	start := metav1.NewTime(noon.Add(-time.Minute))
	pod.Status.StartTime = &start
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: start}}
}

// TestScratchLost ends a server with a scratch in all the ways there are. Where it
// may have served somebody, no other server follows.
func TestScratchLost(t *testing.T) {
	running := func(p *corev1.Pod) {
		server(p, corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
	}
	for _, c := range []struct {
		name  string
		scene func(*observed)

		pod        podAction
		releasePod bool
		again      time.Duration
		ready      string
		complete   string
		words      []string // of the message of Ready
	}{
		{name: "new", scene: func(*observed) {}, pod: podCreate, ready: "False Starting", complete: "False NotEnded"},
		{name: "crashed", scene: func(o *observed) { wasServing(o); over(withPod(o), 137, "out of memory") },
			ready: "False Completed", complete: "True ScratchLost", words: []string{"pod nbd-e", "exit code 137", "out of memory", "create the export anew"}},
		{name: "crashed, and nobody saw it ready", scene: func(o *observed) { over(withPod(o), 137, "") },
			ready: "False Completed", complete: "True ScratchLost"},
		{name: "crashed, another container still ends", scene: func(o *observed) {
			wasServing(o)
			server(withPod(o), terminated(2, "panic"))
		}, ready: "False ServerFailed", complete: "False NotEnded", words: []string{"exit code 2 and its pod ends", "panic"}},
		{name: "evicted", scene: func(o *observed) {
			wasServing(o)
			over(withPod(o), 3, reportOf(t, "signal=SIGTERM", 3))
		}, ready: "False Completed", complete: "True ScratchLost", words: []string{"2 clients cut off"}},
		{name: "evicted, nothing is known", scene: func(o *observed) {
			wasServing(o)
			withPod(o).Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "DiskPressure"}
		}, ready: "False Completed", complete: "True ScratchLost", words: []string{"Evicted: DiskPressure"}},
		{name: "rejected by the kubelet", scene: func(o *observed) {
			withPod(o).Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "OutOfephemeral-storage"}
			o.now = noon.Add(time.Hour)
		}, pod: podRemove, ready: "False Replacing", complete: "False NotEnded"},
		{name: "drains by hand", scene: func(o *observed) { wasServing(o); running(withPod(o)); deleted(o.pod) },
			again: overdueMargin, ready: "False Draining", complete: "False NotEnded", words: []string{"the pod nbd-e was told to end", "the export ends"}},
		{name: "drained by hand", scene: func(o *observed) {
			wasServing(o)
			deleted(withPod(o))
			over(o.pod, 0, reportOf(t, "signal=SIGTERM", 0))
		}, ready: "False Completed", complete: "True ScratchLost", words: []string{"has ended without an exit condition, and with it"}},
		{name: "deleted by hand before it ran", scene: func(o *observed) {
			deleted(withPod(o))
			o.pod.Spec.NodeName = ""
		}, releasePod: true, ready: "False Replacing", complete: "False NotEnded"},
		{name: "deleted by hand while it starts", scene: func(o *observed) {
			neverReady(withPod(o))
			server(o.pod, corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}})
			deleted(o.pod)
		}, again: overdueMargin, ready: "False Replacing", complete: "False NotEnded"},
		{name: "deleted by hand before it was ready", scene: func(o *observed) { neverReady(withPod(o)); running(o.pod); deleted(o.pod) },
			again: overdueMargin, ready: "False Draining", complete: "False NotEnded"},
		{name: "deleted by force", scene: func(o *observed) {
			wasServing(o)
			deleted(withPod(o))
			o.pod.DeletionGracePeriodSeconds = ptr.To[int64](0)
		}, again: 75*time.Second + overdueMargin, ready: "False Draining", complete: "False NotEnded"},
		{name: "deleted by force a while ago", scene: func(o *observed) {
			wasServing(o)
			deleted(withPod(o))
			o.pod.DeletionGracePeriodSeconds = ptr.To[int64](0)
			o.now = noon.Add(75*time.Second + overdueMargin)
		}, ready: "False Completed", complete: "True ScratchLost"},
		{name: "node lost", scene: func(o *observed) {
			wasServing(o)
			running(withPod(o))
			deleted(o.pod)
			o.now = noon.Add(24 * time.Hour)
		}, again: nodeDelay, ready: "False Draining", complete: "False NotEnded"},
		{name: "pod gone", scene: wasServing, ready: "False Completed", complete: "True ScratchLost", words: []string{"the export's pod is gone"}},
		{name: "pod orphaned", scene: func(o *observed) { wasServing(o); withOrphan(o) }, pod: podRemove, ready: "False Replacing", complete: "False NotEnded"},
		{name: "orphaned pod has ended", scene: func(o *observed) { wasServing(o); over(withOrphan(o), 0, "") },
			ready: "False Completed", complete: "True ScratchLost"},
		{name: "a condition was met", scene: func(o *observed) {
			wasServing(o)
			over(withPod(o), 0, reportOf(t, "file-created=/run/nbdexport/stop", 0))
		}, ready: "False Completed", complete: "True Drained"},
		{name: "lost before, and the VM goes", scene: func(o *observed) {
			wasServing(o)
			over(withPod(o), 137, "")
			delete(o.targets, "vm")
		}, ready: "False Completed", complete: "True ServerKilled"},
		{name: "can't start, just now", scene: func(o *observed) {
			over(withPod(o), 1, "nbdserver: disk.img: no such file")
			neverReady(o.pod)
		}, again: mostDelay, ready: "False ServerFailed", complete: "False NotEnded", words: []string{"no such file", "in a new pod"}},
		{name: "device denied", scene: func(o *observed) {
			over(withPod(o), 5, "nbdserver: permission denied")
			neverReady(o.pod)
		}, again: mostDelay, ready: "False DeviceAccessDenied", complete: "False NotEnded", words: []string{"permission denied", "in a new pod"}},
		{name: "can't start, a new export", scene: func(o *observed) {
			over(withPod(o), 1, "nbdserver: disk.img: no such file")
			neverReady(o.pod)
			o.export.CreationTimestamp = metav1.NewTime(noon.Add(-time.Minute))
		}, again: time.Minute / 4, ready: "False ServerFailed", complete: "False NotEnded"},
		{name: "couldn't start a while ago", scene: func(o *observed) {
			over(withPod(o), 1, "nbdserver: disk.img: no such file")
			neverReady(o.pod)
			o.now = noon.Add(mostDelay)
		}, pod: podRemove, ready: "False ServerFailed", complete: "False NotEnded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := onCopy()
			c.scene(o)
			p := decide(o)
			if p.pod != c.pod || p.releasePod != c.releasePod || p.again != c.again {
				t.Errorf("pod %v, release pod %v, again %v, want %v, %v, %v", p.pod, p.releasePod, p.again, c.pod, c.releasePod, c.again)
			}
			if got, message := said(p, v1alpha1.ConditionComplete); got != c.complete {
				t.Errorf("Complete is %q (%s), want %q", got, message, c.complete)
			}
			got, message := said(p, v1alpha1.ConditionReady)
			if got != c.ready {
				t.Errorf("Ready is %q (%s), want %q", got, message, c.ready)
			}
			for _, w := range c.words {
				if !strings.Contains(message, w) {
					t.Errorf("the message lacks %q: %s", w, message)
				}
			}
			lost := strings.HasSuffix(c.complete, v1alpha1.ReasonScratchLost)
			if failed, _ := said(p, v1alpha1.ConditionFailed); lost != (failed == "True "+v1alpha1.ReasonScratchLost) {
				t.Errorf("Failed is %q", failed)
			}
			if lost && (p.exit == nil || p.exit.Condition != v1alpha1.ExitScratchLost || p.exit.Clean == nil || *p.exit.Clean || p.exit.FinishedAt == nil) {
				t.Errorf("exit: %+v", p.exit)
			}
		})
	}
}

// TestScratchLostCounts keeps what the server has reported of its clients.
func TestScratchLostCounts(t *testing.T) {
	o := onCopy()
	wasServing(o)
	over(withPod(o), 0, reportOf(t, "signal=SIGTERM", 0))
	x := decide(o).exit
	if *x.BytesRead != 1<<40 || *x.BytesWritten != 7 || !x.StartedAt.Time.Equal(noon.Add(-time.Minute)) || !x.FinishedAt.Time.Equal(noon) {
		t.Errorf("%+v", x)
	}
}

// TestScratchLostEvent tells once that the scratch is lost, and of no condition.
func TestScratchLostEvent(t *testing.T) {
	o := onCopy()
	wasServing(o)
	over(withPod(o), 137, "")
	got := news(o.export.GetStatus(), statusOf(o.export, decide(o)))
	if len(got) != 1 || got[0].reason != v1alpha1.ReasonScratchLost || got[0].kind != corev1.EventTypeWarning {
		t.Errorf("%+v", got)
	}
}
