package controllers

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
	"github.com/nbdexport/nbdexport/nbdserver/report"
)

// TestDecide has a row for each step in the life of an export. What has to be on
// record before it is done has two: one that records, one that does.
func TestDecide(t *testing.T) {
	recorded := func(o *observed) {
		at := metav1.NewTime(noon)
		o.export.Status.Exit = &v1alpha1.ExitStatus{Condition: "vm-gone", Reason: v1alpha1.ExitPodDeleted, StartedAt: &at}
	}
	complete := func(o *observed) {
		recorded(o)
		o.export.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionComplete, Status: metav1.ConditionTrue}}
	}
	going := func(o *observed) {
		at := metav1.NewTime(noon)
		o.export.DeletionTimestamp = &at
	}
	vmGone := func(o *observed) { delete(o.targets, "vm") }
	forced := func(p *corev1.Pod, ago time.Duration) {
		deleted(p)
		at := metav1.NewTime(noon.Add(-ago))
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &at, ptr.To[int64](0)
	}

	for _, c := range []struct {
		name  string
		scene func(*observed)

		pod           podAction
		releasePod    bool
		releaseExport bool
		removeExport  bool
		again         time.Duration
		exit          string // condition of the exit that is written
		ready         string
		complete      string
	}{
		{name: "new", scene: func(*observed) {},
			pod: podCreate, ready: "False Starting", complete: "False NotEnded"},
		{name: "claim missing", scene: func(o *observed) { delete(o.claims, "disk") },
			ready: "False ClaimNotFound", complete: "False NotEnded"},
		{name: "name taken", scene: func(o *observed) { o.pod = userPod("nbd-e", "") },
			again: refusedDelay, ready: "False NameTaken", complete: "False NotEnded"},
		{name: "name of the Service taken", scene: func(o *observed) { o.service = &corev1.Service{} },
			again: refusedDelay, ready: "False NameTaken", complete: "False NotEnded"},
		{name: "name of the ConfigMap taken", scene: func(o *observed) { o.configMap = &corev1.ConfigMap{} },
			again: refusedDelay, ready: "False NameTaken", complete: "False NotEnded"},
		{name: "serves", scene: func(o *observed) {
			withPod(o).Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}, ready: "True Serving", complete: "False NotEnded"},

		{name: "serves, and an extra container has ended", scene: func(o *observed) { withPod(o); unreadyCompanion(o, terminated(2, "")) },
			again: nodeDelay, ready: "True Serving", complete: "False NotEnded"},

		{name: "condition met before anything", scene: vmGone,
			exit: "vm-gone", ready: "False Completed", complete: "True NeverStarted"},
		{name: "condition met: recorded only", scene: func(o *observed) { vmGone(o); withPod(o) },
			exit: "vm-gone", ready: "False Draining", complete: "False NotEnded"},
		{name: "condition recorded: pod told to end", scene: func(o *observed) { recorded(o); withPod(o) },
			pod: podRemove, exit: "vm-gone", ready: "False Draining", complete: "False NotEnded"},
		{name: "condition recorded: VM is back", scene: func(o *observed) { recorded(o); withPod(o) },
			pod: podRemove, exit: "vm-gone", ready: "False Draining", complete: "False NotEnded"},
		{name: "drains", scene: func(o *observed) { recorded(o); deleted(withPod(o)) },
			again: overdueMargin, exit: "vm-gone", ready: "False Draining", complete: "False NotEnded"},
		{name: "VM and pod deleted at once", scene: func(o *observed) { vmGone(o); deleted(withPod(o)) },
			again: overdueMargin, exit: "vm-gone", ready: "False Draining", complete: "False NotEnded"},
		{name: "drained: report recorded, pod still held", scene: func(o *observed) {
			recorded(o)
			deleted(withPod(o))
			over(o.pod, 0, reportOf(t, "signal=SIGTERM", 0))
		}, exit: "vm-gone", ready: "False Completed", complete: "True Drained"},
		{name: "report recorded: pod let go", scene: func(o *observed) {
			complete(o)
			deleted(withPod(o))
			over(o.pod, 0, reportOf(t, "signal=SIGTERM", 0))
		}, releasePod: true},
		{name: "reported, other containers still end", scene: func(o *observed) {
			recorded(o)
			deleted(withPod(o))
			server(o.pod, terminated(0, reportOf(t, "signal=SIGTERM", 0)))
		}, exit: "vm-gone", ready: "False Completed", complete: "True Drained"},
		{name: "complete, other containers still end", scene: func(o *observed) {
			complete(o)
			server(withPod(o), terminated(0, reportOf(t, "file-created=/run/nbdexport/stop", 0)))
		}},
		{name: "complete, and a pod was made from an old copy", scene: func(o *observed) { complete(o); withPod(o) }, pod: podRemove},
		{name: "complete, pod gone", scene: complete},
		{name: "server had begun before it was told", scene: func(o *observed) {
			recorded(o)
			deleted(withPod(o))
			over(o.pod, 0, reportOf(t, "file-created=/run/nbdexport/stop", 0))
		}, exit: "stop", ready: "False Completed", complete: "True Drained"},
		{name: "pod vanished in its drain", scene: recorded,
			exit: "vm-gone", ready: "False Completed", complete: "True ReportLost"},
		{name: "server killed in its drain", scene: func(o *observed) {
			recorded(o)
			deleted(withPod(o))
			over(o.pod, 137, "out of memory")
		}, exit: "vm-gone", ready: "False Completed", complete: "True ServerKilled"},

		{name: "server met a condition", scene: func(o *observed) {
			over(withPod(o), 0, reportOf(t, "file-created=/run/nbdexport/stop", 0))
		}, exit: "stop", ready: "False Completed", complete: "True Drained"},
		{name: "server met a condition, is started once more", scene: func(o *observed) {
			server(withPod(o), corev1.ContainerStatus{
				State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
				LastTerminationState: terminated(3, reportOf(t, "file-created=/run/nbdexport/stop", 3)).State})
		}, exit: "stop", ready: "False Completed", complete: "True ClientsCutOff"},
		{name: "clients cut off, repeated", scene: func(o *observed) {
			over(withPod(o), 0, reportOf(t, "script={\"command\":[\"/x\",\"-y\"],\"timeoutSeconds\":30}", 3))
		}, exit: "asked", ready: "False Completed", complete: "True ClientsCutOff"},
		{name: "flush failed", scene: func(o *observed) {
			over(withPod(o), 0, reportOf(t, "control=drain", 4))
		}, exit: "DrainRequested", ready: "False Completed", complete: "True FlushFailed"},

		{name: "deleted by hand", scene: func(o *observed) { deleted(withPod(o)) },
			again: overdueMargin, ready: "False Replacing", complete: "False NotEnded"},
		{name: "deleted by hand, drained", scene: func(o *observed) {
			deleted(withPod(o))
			over(o.pod, 0, reportOf(t, "signal=SIGTERM", 0))
		}, releasePod: true, ready: "False Replacing", complete: "False NotEnded"},
		{name: "deleted by hand before it ran", scene: func(o *observed) {
			deleted(withPod(o))
			o.pod.Spec.NodeName = ""
		}, releasePod: true, ready: "False Replacing", complete: "False NotEnded"},
		{name: "evicted just now", scene: func(o *observed) {
			over(withPod(o), 0, reportOf(t, "signal=SIGTERM", 0))
		}, again: replaceDelay, ready: "False Replacing", complete: "False NotEnded"},
		{name: "evicted a while ago", scene: func(o *observed) {
			over(withPod(o), 0, reportOf(t, "signal=SIGTERM", 0))
			o.now = noon.Add(replaceDelay)
		}, pod: podRemove, ready: "False Replacing", complete: "False NotEnded"},
		{name: "deleted by force", scene: func(o *observed) { forced(withPod(o), 0) },
			again: 75*time.Second + overdueMargin, ready: "False Replacing", complete: "False NotEnded"},
		{name: "deleted by force a while ago", scene: func(o *observed) { forced(withPod(o), 75*time.Second+overdueMargin) },
			releasePod: true, ready: "False Replacing", complete: "False NotEnded"},
		{name: "VM not on record: recorded only", scene: func(o *observed) { o.export.Status.WatchedPods = nil },
			ready: "False Starting", complete: "False NotEnded"},
		{name: "VM replaced before anything", scene: func(o *observed) { o.targets["vm"].UID = "10" },
			exit: "vm-gone", ready: "False Completed", complete: "True NeverStarted"},
		{name: "VM replaced: recorded only", scene: func(o *observed) { o.targets["vm"].UID = "10"; withPod(o) },
			exit: "vm-gone", ready: "False Draining", complete: "False NotEnded"},

		{name: "complete, kept for a while", scene: func(o *observed) {
			complete(o)
			kept(o, 60)
		}, again: time.Minute},
		{name: "complete, kept long enough, report still held", scene: func(o *observed) {
			complete(o)
			kept(o, 0)
			over(withPod(o), 0, reportOf(t, "signal=SIGTERM", 0))
		}, releasePod: true},
		{name: "complete, kept long enough", scene: func(o *observed) {
			complete(o)
			kept(o, 0)
			over(withPod(o), 0, reportOf(t, "signal=SIGTERM", 0))
			o.pod.Finalizers = nil
		}, removeExport: true},
		{name: "complete, kept long enough, no pod", scene: func(o *observed) {
			complete(o)
			kept(o, 60)
			o.now = noon.Add(time.Minute)
		}, removeExport: true},
		{name: "not complete, and would be kept for no time", scene: func(o *observed) { kept(o, 0) },
			pod: podCreate, ready: "False Starting", complete: "False NotEnded"},
		{name: "deadline to come, no pod", scene: func(o *observed) { until(o, time.Minute) },
			pod: podCreate, again: time.Minute, ready: "False Starting", complete: "False NotEnded"},
		{name: "deadline to come, after something else", scene: func(o *observed) {
			until(o, time.Minute)
			over(withPod(o), 0, reportOf(t, "signal=SIGTERM", 0))
		}, again: replaceDelay, ready: "False Replacing", complete: "False NotEnded"},
		{name: "deadline has come, no pod", scene: func(o *observed) { until(o, 0) },
			exit: "day-over", ready: "False Completed", complete: "True NeverStarted"},
		{name: "deadline has come, claim missing", scene: func(o *observed) { until(o, -time.Hour); delete(o.claims, "disk") },
			exit: "day-over", ready: "False Completed", complete: "True NeverStarted"},
		{name: "deadline has come, the server runs and will notice", scene: func(o *observed) {
			until(o, 0)
			server(withPod(o), corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
		}, ready: "False NotReady", complete: "False NotEnded"},
		{name: "deadline has come, the server can't run: recorded only", scene: func(o *observed) { until(o, 0); withPod(o) },
			exit: "day-over", ready: "False Draining", complete: "False NotEnded"},
		{name: "deadline has come, deleted by hand", scene: func(o *observed) {
			until(o, 0)
			server(withPod(o), corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
			deleted(o.pod)
		}, again: overdueMargin, exit: "day-over", ready: "False Draining", complete: "False NotEnded"},
		{name: "deadline has come, evicted", scene: func(o *observed) {
			until(o, 0)
			over(withPod(o), 0, reportOf(t, "signal=SIGTERM", 0))
		}, exit: "day-over", ready: "False Completed", complete: "True Drained"},
		{name: "deadline has come and was moved on before anybody noticed", scene: func(o *observed) {
			until(o, 0)
			withPod(o)
			movedOn(o)
		}, pod: podRemove, again: time.Hour, ready: "False Updating", complete: "False NotEnded"},
		{name: "deadline has come and was moved on, the server drains for it", scene: func(o *observed) {
			until(o, 0)
			runs(withPod(o))
			movedOn(o)
			deleted(o.pod)
		}, again: overdueMargin, ready: "False Updating", complete: "False NotEnded"},
		{name: "deadline has come and was moved on, the server has ended by it", scene: func(o *observed) {
			until(o, 0)
			over(withPod(o), 0, reportOf(t, "deadline="+noon.Format(time.RFC3339), 0))
			movedOn(o)
		}, pod: podRemove, again: time.Hour, ready: "False Updating", complete: "False NotEnded"},
		{name: "deadline has come and was moved on once it was on record", scene: func(o *observed) {
			until(o, 0)
			recorded(o)
			runs(withPod(o))
			movedOn(o)
		}, pod: podRemove, exit: "vm-gone", ready: "False Draining", complete: "False NotEnded"},
		{name: "deadline is moved to before now, the server runs with the one before: told to end, then recorded", scene: func(o *observed) {
			until(o, time.Hour)
			runs(withPod(o))
			edit(o, func(s *v1alpha1.NBDExportSpec) { s.ExitWhen[len(s.ExitWhen)-1].Deadline.Seconds = ptr.To[int32](1) })
		}, pod: podRemove, ready: "False Updating", complete: "False NotEnded"},
		{name: "server met the deadline", scene: func(o *observed) {
			until(o, 0)
			over(withPod(o), 0, reportOf(t, "deadline="+noon.Format(time.RFC3339), 3))
		}, exit: "day-over", ready: "False Completed", complete: "True ClientsCutOff"},

		{name: "the server has just been started", scene: func(o *observed) { runsSince(withPod(o), noon.Add(-2*time.Second)) },
			again: 3 * time.Second, ready: "False Starting", complete: "False NotEnded"},
		{name: "the server has just been started, by a clock that is ahead", scene: func(o *observed) { runsSince(withPod(o), noon.Add(time.Hour)) },
			again: 5 * time.Second, ready: "False Starting", complete: "False NotEnded"},

		{name: "claim in use on another node", scene: func(o *observed) { stuck(o, *userPod("vm", "node-8")) },
			pod: podRemove, ready: "False VolumeInUse", complete: "False NotEnded"},
		{name: "claim in use on another node, the image isn't there", scene: func(o *observed) {
			stuck(o, *userPod("vm", "node-8"))
			server(o.pod, corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}}})
		}, pod: podRemove, ready: "False VolumeInUse", complete: "False NotEnded"},
		{name: "claim in use on another node, told to end", scene: func(o *observed) {
			stuck(o, *userPod("vm", "node-8"))
			deleted(o.pod)
		}, again: overdueMargin, ready: "False VolumeInUse", complete: "False NotEnded"},
		{name: "claim in use on the same node", scene: func(o *observed) { stuck(o, *userPod("vm", "node-7")) },
			ready: "False Starting", complete: "False NotEnded"},
		{name: "claim in use on both nodes", scene: func(o *observed) {
			stuck(o, *userPod("vm", "node-8"), *userPod("vm-2", "node-7"))
		}, ready: "False VolumeInUse", complete: "False NotEnded"},
		{name: "claim in use on two other nodes", scene: func(o *observed) {
			stuck(o, *userPod("vm", "node-8"), *userPod("vm-2", "node-9"))
		}, ready: "False VolumeInUse", complete: "False NotEnded"},
		{name: "claim in use on another node by a pod that goes", scene: func(o *observed) {
			vm := userPod("vm", "node-8")
			deleted(vm)
			stuck(o, *vm)
		}, ready: "False VolumeInUse", complete: "False NotEnded"},
		{name: "claim on another node, the server ran", scene: func(o *observed) {
			stuck(o, *userPod("vm", "node-8"))
			server(o.pod, corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
		}, ready: "False NotReady", complete: "False NotEnded"},
		{name: "claim on another node, the server ran before", scene: func(o *observed) {
			stuck(o, *userPod("vm", "node-8"))
			server(o.pod, corev1.ContainerStatus{RestartCount: 1, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}})
		}, ready: "False Starting", complete: "False NotEnded"},
		{name: "claim on another node, pod of an older export", scene: func(o *observed) {
			stuck(o, *podOf(another("other", v1alpha1.ReadOnly, noon.Add(-time.Hour)), "node-8"))
		}, pod: podRemove, ready: "False VolumeInUse", complete: "False NotEnded"},
		{name: "claim on another node, pod of a younger export", scene: func(o *observed) {
			stuck(o, *podOf(another("other", v1alpha1.ReadOnly, noon.Add(time.Hour)), "node-8"))
		}, ready: "False Starting", complete: "False NotEnded"},
		{name: "claim on another node, pod of a younger export that runs", scene: func(o *observed) {
			other := podOf(another("other", v1alpha1.ReadOnly, noon.Add(time.Hour)), "node-8")
			server(other, corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
			stuck(o, *other)
		}, pod: podRemove, ready: "False VolumeInUse", complete: "False NotEnded"},

		{name: "waits for the wrong node", scene: func(o *observed) {
			withPod(o).Spec.NodeName = ""
			o.users["disk"] = []corev1.Pod{*userPod("vm", "node-7")}
		}, pod: podRemove, ready: "False Replacing", complete: "False NotEnded"},

		{name: "export deleted", scene: func(o *observed) { going(o); withPod(o) },
			pod: podRemove, ready: "False Deleting"},
		{name: "export deleted, drains", scene: func(o *observed) { going(o); deleted(withPod(o)) }, again: overdueMargin, ready: "False Deleting"},
		{name: "export deleted, drained", scene: func(o *observed) {
			going(o)
			deleted(withPod(o))
			over(o.pod, 0, reportOf(t, "signal=SIGTERM", 0))
		}, releasePod: true, ready: "False Deleting"},
		{name: "export deleted, pod let go", scene: func(o *observed) {
			going(o)
			over(withPod(o), 0, "")
			o.pod.Finalizers = nil
		}, releaseExport: true},
		{name: "export deleted, no pod", scene: going, releaseExport: true},
		{name: "export deleted, foreign pod", scene: func(o *observed) { going(o); o.pod = userPod("nbd-e", "") }, releaseExport: true},
		{name: "export deleted, orphaned pod", scene: func(o *observed) { going(o); withOrphan(o) },
			pod: podRemove, ready: "False Deleting"},
		{name: "export deleted, orphaned pod drains", scene: func(o *observed) { going(o); deleted(withOrphan(o)) }, again: overdueMargin, ready: "False Deleting"},
		{name: "export deleted, orphaned pod drained", scene: func(o *observed) {
			going(o)
			deleted(withOrphan(o))
			over(o.pod, 0, reportOf(t, "signal=SIGTERM", 0))
		}, releasePod: true, ready: "False Deleting"},
		{name: "export deleted, orphaned pod let go", scene: func(o *observed) {
			going(o)
			withOrphan(o).Finalizers = nil
		}, releaseExport: true},
		{name: "export deleted, orphaned pod is somebody else's by now", scene: func(o *observed) {
			going(o)
			withOrphan(o).OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "e", UID: "9", Controller: ptr.To(true)}}
		}, releaseExport: true},
		{name: "export deleted, pod without our labels", scene: func(o *observed) {
			going(o)
			withOrphan(o).Labels = nil
		}, releaseExport: true},
		{name: "condition recorded, orphaned pod", scene: func(o *observed) { recorded(o); withOrphan(o) },
			pod: podRemove, exit: "vm-gone", ready: "False Draining", complete: "False NotEnded"},
		{name: "complete, orphaned pod over", scene: func(o *observed) { complete(o); over(withOrphan(o), 0, "") }, releasePod: true},
		{name: "orphaned pod of an export that goes on", scene: func(o *observed) { withOrphan(o) },
			pod: podRemove, ready: "False Replacing", complete: "False NotEnded"},
		{name: "orphaned pod of an export that goes on drains", scene: func(o *observed) { deleted(withOrphan(o)) },
			again: overdueMargin, ready: "False Replacing", complete: "False NotEnded"},
		{name: "orphaned pod of an export that goes on has drained", scene: func(o *observed) {
			deleted(withOrphan(o))
			over(o.pod, 0, reportOf(t, "signal=SIGTERM", 0))
		}, releasePod: true, ready: "False Replacing", complete: "False NotEnded"},
		{name: "orphaned pod of an export that goes on has ended by itself", scene: func(o *observed) {
			over(withOrphan(o), 0, reportOf(t, "file-created=/run/nbdexport/stop", 0))
		}, pod: podRemove, ready: "False Replacing", complete: "False NotEnded"},
		{name: "pod of an earlier export has ended", scene: func(o *observed) {
			over(withPod(o), 0, "")
			o.pod.OwnerReferences[0].UID = "0"
		}, again: refusedDelay, releasePod: true, ready: "False NameTaken", complete: "False NotEnded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := scene()
			c.scene(o)
			p := decide(o)
			if p.pod != c.pod || p.releasePod != c.releasePod || p.releaseExport != c.releaseExport || p.removeExport != c.removeExport || p.again != c.again {
				t.Errorf("pod %v, release pod %v, release export %v, remove export %v, again %v\nwant %v, %v, %v, %v, %v",
					p.pod, p.releasePod, p.releaseExport, p.removeExport, p.again, c.pod, c.releasePod, c.releaseExport, c.removeExport, c.again)
			}
			exit := ""
			if p.exit != nil {
				exit = p.exit.Condition
			}
			if exit != c.exit {
				t.Errorf("exit %q, want %q", exit, c.exit)
			}
			for kind, want := range map[string]string{v1alpha1.ConditionReady: c.ready, v1alpha1.ConditionComplete: c.complete} {
				if got, message := said(p, kind); got != want {
					t.Errorf("%s is %q (%s), want %q", kind, got, message, want)
				}
			}
		})
	}
}

// TestFinish looks at what is written down of a report.
func TestFinish(t *testing.T) {
	o := scene()
	over(withPod(o), 0, reportOf(t, "file-created=/run/nbdexport/stop", 0))
	x := decide(o).exit
	if !*x.Clean || *x.BytesRead != 1<<40 || *x.BytesWritten != 7 || x.Reason != v1alpha1.ExitFileCreated ||
		!x.StartedAt.Equal(ptr.To(metav1.NewTime(noon.Add(-time.Minute)))) || !x.FinishedAt.Equal(ptr.To(metav1.NewTime(noon))) {
		t.Errorf("%+v", x)
	}

	o = scene()
	over(withPod(o), 0, reportOf(t, "moon=full", 0))
	if x := decide(o).exit; x.Condition != v1alpha1.ExitOther || x.Reason != v1alpha1.ExitOther {
		t.Errorf("a condition of a newer server: %+v", x)
	}
}

// TestDeadlineNoticed writes down when a deadline was noticed that had come before: while
// there was no operator, say, or before the export was made.
func TestDeadlineNoticed(t *testing.T) {
	o := scene()
	until(o, -time.Hour)
	withPod(o)
	if x := decide(o).exit; x == nil || !x.StartedAt.Equal(ptr.To(metav1.NewTime(noon))) {
		t.Errorf("%+v", x)
	}
}

// TestLongCondition finds a condition that the report has in its short form.
func TestLongCondition(t *testing.T) {
	o := scene()
	for i, c := range []string{"a", "b"} {
		script := &v1alpha1.Script{Command: []string{strings.Repeat("x", 4000) + c}, TimeoutSeconds: ptr.To[int32](30)}
		o.export.Spec.ExitWhen[i] = v1alpha1.ExitCondition{Name: "long-" + c, Script: script}
	}
	flag, arg, _ := desired.ExitFlag(o.export, o.export.Spec.ExitWhen[1])
	condition := report.Brief(flag + "=" + arg)
	if len(condition) > 256 {
		t.Errorf("%d bytes", len(condition))
	}
	over(withPod(o), 0, reportOf(t, condition, 0))
	if x := decide(o).exit; x == nil || x.Condition != "long-b" || x.Reason != v1alpha1.ExitScript {
		t.Errorf("%+v", x)
	}
}

// TestWhy reads why a pod has ended that nobody told to.
func TestWhy(t *testing.T) {
	for _, c := range []struct {
		condition string
		code      int
		want      string
	}{
		{"signal=SIGTERM", 0, ""},
		{"signal=SIGTERM", 3, " (its server ended with exit code 3, 2 clients cut off: )"},
	} {
		o := scene()
		pod := withPod(o)
		over(pod, c.code, reportOf(t, c.condition, c.code))
		if got := o.why(pod); got != c.want {
			t.Errorf("%s, %d:\n%s, want\n%s", c.condition, c.code, got, c.want)
		}
	}
	o := scene()
	pod := withPod(o)
	over(pod, 137, "out of memory")
	if got, want := o.why(pod), " (its server ended with exit code 137: out of memory)"; got != want {
		t.Errorf("%s, want%s", got, want)
	}
}

// TestConfigMapApplied applies the ConfigMap only when that changes something.
func TestConfigMapApplied(t *testing.T) {
	o := scene()
	if !decide(o).applyConfigMap {
		t.Error("a missing ConfigMap isn't made")
	}
	o.configMap = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Labels: desired.Labels("e"), OwnerReferences: []metav1.OwnerReference{ownerRef("1")}},
		Data: desired.ConfigMap(o.export).Data}
	if decide(o).applyConfigMap {
		t.Error("a ConfigMap is applied that is as it has to be")
	}
	o.export.Spec.Limits = &v1alpha1.Limits{Connections: ptr.To[int32](3)}
	if !decide(o).applyConfigMap {
		t.Error("changed limits aren't applied")
	}
}

// TestNetworkPolicyApplied applies the NetworkPolicy only when that changes something,
// and removes it when there shall be none.
func TestNetworkPolicyApplied(t *testing.T) {
	policy := func(owner types.UID) *networkingv1.NetworkPolicy {
		return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{ownerRef(owner)}}}
	}
	for name, c := range map[string]struct {
		mode          v1alpha1.NetworkPolicyMode
		is            *networkingv1.NetworkPolicy
		apply, remove bool
	}{
		"missing":    {v1alpha1.NetworkPolicyManaged, nil, true, false},
		"different":  {v1alpha1.NetworkPolicyManaged, policy("1"), true, false},
		"foreign":    {v1alpha1.NetworkPolicyManaged, policy("0"), false, false},
		"not wanted": {v1alpha1.NetworkPolicyNone, policy("1"), false, true},
		"none":       {v1alpha1.NetworkPolicyNone, nil, false, false},
	} {
		o := scene()
		o.export.Spec.NetworkPolicy, o.networkPolicy = &v1alpha1.NetworkPolicy{Mode: ptr.To(c.mode)}, c.is
		if p := decide(o); p.applyNetworkPolicy != c.apply || p.removeNetworkPolicy != c.remove {
			t.Errorf("%s: apply %v, remove %v", name, p.applyNetworkPolicy, p.removeNetworkPolicy)
		}
	}
}

// TestServiceApplied applies the Service only when that changes something.
func TestServiceApplied(t *testing.T) {
	o := scene()
	if !decide(o).applyService {
		t.Error("a missing Service isn't made")
	}
	o.service = &corev1.Service{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{ownerRef("1")}}}
	if !decide(o).applyService {
		t.Error("a Service that is another one isn't corrected")
	}
	o.service.OwnerReferences[0].UID = "0"
	if p := decide(o); p.applyService || p.served {
		t.Error("somebody else's Service is touched")
	}
	if desired.ServiceMatches(o.export, o.service) {
		t.Error("an empty Service matches")
	}
}

// kept has the export kept for some seconds after its end, which was at noon.
func kept(o *observed, seconds int32) {
	o.export.Spec.TTLSecondsAfterFinished = &seconds
	for i := range o.export.Status.Conditions {
		o.export.Status.Conditions[i].LastTransitionTime = metav1.NewTime(noon)
	}
}

// until gives the export two deadlines, of which the first is a while after noon.
func until(o *observed, d time.Duration) {
	o.export.CreationTimestamp = metav1.NewTime(noon.Add(d - 24*time.Hour))
	later := metav1.NewTime(noon.Add(d + time.Hour))
	o.export.Spec.ExitWhen = append(o.export.Spec.ExitWhen,
		v1alpha1.ExitCondition{Name: "later", Deadline: &v1alpha1.Deadline{Time: &later}},
		v1alpha1.ExitCondition{Name: "day-over", Deadline: &v1alpha1.Deadline{Seconds: ptr.To[int32](86400)}})
}

// movedOn moves the deadline on that until has made, to an hour after noon.
func movedOn(o *observed) {
	edit(o, func(s *v1alpha1.NBDExportSpec) { *s.ExitWhen[len(s.ExitWhen)-1].Deadline.Seconds += 3600 })
}

// stuck gives the export a pod on node-7 that has not started, made at noon, and
// its claim to others.
func stuck(o *observed, users ...corev1.Pod) {
	withPod(o).CreationTimestamp = metav1.NewTime(noon)
	o.users["disk"] = users
}
