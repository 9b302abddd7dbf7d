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

// edit changes the spec, as the API server does it.
func edit(o *observed, change func(*v1alpha1.NBDExportSpec)) {
	change(&o.export.Spec)
	o.export.Generation++
}

// runs lets the pod's server run.
func runs(pod *corev1.Pod) {
	server(pod, corev1.ContainerStatus{Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
}

// TestUpdate changes the spec of an export that has a pod.
func TestUpdate(t *testing.T) {
	longer := func(s *v1alpha1.NBDExportSpec) { s.Drain.TimeoutSeconds = ptr.To[int32](61) }
	noFile := func(s *v1alpha1.NBDExportSpec) { s.ExitWhen = s.ExitWhen[1:] }
	for _, c := range []struct {
		name  string
		scene func(*observed)

		pod        podAction
		releasePod bool
		stampPod   bool
		again      time.Duration
		exit       string
		ready      string
		words      string // in the message of Ready
	}{
		{name: "nothing has changed", scene: func(o *observed) { runs(withPod(o)) }, ready: "True Serving"},
		{name: "served", scene: func(o *observed) { runs(withPod(o)); edit(o, longer) },
			pod: podRemove, ready: "False Updating", words: "(drain) since the pod nbd-e was made: it drains, which takes 75 seconds at most"},
		{name: "drains", scene: func(o *observed) { runs(withPod(o)); edit(o, longer); deleted(o.pod) },
			again: overdueMargin, ready: "False Updating", words: "it drains, which takes 75 seconds at most"},
		{name: "drained", scene: func(o *observed) {
			deleted(withPod(o))
			edit(o, longer)
			over(o.pod, 0, reportOf(t, "signal=SIGTERM", 0))
		}, releasePod: true, ready: "False Updating", words: "(drain), and the pod nbd-e has ended"},
		{name: "ended before it was told to: no pause", scene: func(o *observed) {
			withPod(o)
			edit(o, longer)
			over(o.pod, 0, reportOf(t, "signal=SIGTERM", 0))
		}, pod: podRemove, ready: "False Updating"},
		{name: "not scheduled", scene: func(o *observed) { withPod(o).Spec.NodeName = ""; edit(o, longer) },
			pod: podRemove, ready: "False Updating", words: "its server hasn't run, a new one is made at once"},
		{name: "image not there", scene: func(o *observed) {
			server(withPod(o), corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}}})
			edit(o, longer)
		}, pod: podRemove, ready: "False Updating", words: "its server hasn't run"},
		{name: "stuck on the wrong node", scene: func(o *observed) {
			stuck(o, *userPod("vm", "node-8"), *userPod("vm-2", "node-9"))
			edit(o, longer)
		}, pod: podRemove, ready: "False Updating"},
		{name: "no new pod needed", scene: func(o *observed) {
			runs(withPod(o))
			edit(o, func(s *v1alpha1.NBDExportSpec) { s.Limits = &v1alpha1.Limits{Connections: ptr.To[int32](7)} })
		}, stampPod: true, ready: "True Serving"},
		{name: "no new pod needed, but it waits for the wrong node", scene: func(o *observed) {
			withPod(o).Spec.NodeName = ""
			o.users["disk"] = []corev1.Pod{*userPod("vm", "node-7")}
			edit(o, func(s *v1alpha1.NBDExportSpec) { s.Limits = &v1alpha1.Limits{Connections: ptr.To[int32](7)} })
		}, pod: podRemove, ready: "False Replacing"},
		{name: "made by another operator", scene: func(o *observed) {
			runs(withPod(o))
			o.pod.Annotations[v1alpha1.AnnotationSpec] = "generation=1,drain=00000000"
		}, stampPod: true, ready: "True Serving"},
		{name: "made by an operator without stamps, and changed", scene: func(o *observed) {
			runs(withPod(o))
			o.pod.Annotations = nil
			edit(o, longer)
		}, stampPod: true, ready: "True Serving"},

		{name: "ended by a condition that is there still", scene: func(o *observed) {
			over(withPod(o), 0, reportOf(t, "file-created=/run/nbdexport/stop", 0))
			edit(o, longer)
		}, exit: "stop", ready: "False Completed"},
		{name: "ended by a condition that is there no more", scene: func(o *observed) {
			over(withPod(o), 0, reportOf(t, "file-created=/run/nbdexport/stop", 0))
			edit(o, noFile)
		}, pod: podRemove, ready: "False Updating", words: "(exitWhen)"},
		{name: "reported a condition that is there no more", scene: func(o *observed) {
			server(withPod(o), terminated(0, reportOf(t, "file-created=/run/nbdexport/stop", 0)))
			edit(o, noFile)
		}, pod: podRemove, ready: "False Updating", words: "(exitWhen)"},
		{name: "ended by a condition that has another name now", scene: func(o *observed) {
			over(withPod(o), 0, reportOf(t, "file-created=/run/nbdexport/stop", 0))
			edit(o, func(s *v1alpha1.NBDExportSpec) { s.ExitWhen[0].Name = "halt" })
		}, exit: "halt", ready: "False Completed"},
		{name: "ended by a condition of a newer server, the drain was changed", scene: func(o *observed) {
			over(withPod(o), 0, reportOf(t, "moon=full", 0))
			edit(o, longer)
		}, exit: v1alpha1.ExitOther, ready: "False Completed"},
		{name: "drained by hand, the conditions were changed", scene: func(o *observed) {
			over(withPod(o), 0, reportOf(t, "control=drain", 0))
			edit(o, noFile)
		}, exit: v1alpha1.ExitDrainRequested, ready: "False Completed"},
		{name: "another end is on record than the one taken out", scene: func(o *observed) {
			at := metav1.NewTime(noon)
			o.export.Status.Exit = &v1alpha1.ExitStatus{Condition: "vm-gone", Reason: v1alpha1.ExitPodDeleted, StartedAt: &at}
			over(withPod(o), 0, reportOf(t, "file-created=/run/nbdexport/stop", 0))
			edit(o, noFile)
		}, exit: "vm-gone", ready: "False Completed"},

		{name: "deadline moved away", scene: func(o *observed) {
			until(o, time.Minute)
			runs(withPod(o))
			edit(o, func(s *v1alpha1.NBDExportSpec) { s.ExitWhen[4].Deadline.Seconds = ptr.To[int32](2 * 86400) })
		}, pod: podRemove, again: time.Minute + time.Hour, ready: "False Updating"},
		{name: "old deadline came before that was seen", scene: func(o *observed) {
			until(o, time.Minute)
			at := o.export.Spec.ExitWhen[4].Deadline.At(o.export.CreationTimestamp.Time)
			over(withPod(o), 0, reportOf(t, "deadline="+at.Format(time.RFC3339), 0))
			edit(o, func(s *v1alpha1.NBDExportSpec) { s.ExitWhen[4].Deadline.Seconds = ptr.To[int32](2 * 86400) })
		}, pod: podRemove, again: time.Minute + time.Hour, ready: "False Updating"},
		{name: "deadline comes while it drains for an update", scene: func(o *observed) {
			until(o, 0)
			runs(withPod(o))
			edit(o, longer)
			deleted(o.pod)
		}, again: overdueMargin, exit: "day-over", ready: "False Draining"},
		{name: "VM goes while it drains for an update", scene: func(o *observed) {
			runs(withPod(o))
			edit(o, longer)
			deleted(o.pod)
			delete(o.targets, "vm")
		}, again: overdueMargin, exit: "vm-gone", ready: "False Draining"},

		{name: "podDeleted taken out, and the pod goes", scene: func(o *observed) {
			runs(withPod(o))
			edit(o, func(s *v1alpha1.NBDExportSpec) { s.ExitWhen = s.ExitWhen[:2] })
			delete(o.targets, "vm")
		}, stampPod: true, ready: "True Serving"},
		{name: "podDeleted names another pod, which is there", scene: func(o *observed) {
			runs(withPod(o))
			edit(o, func(s *v1alpha1.NBDExportSpec) { s.ExitWhen[2].PodDeleted.Name = ptr.To("vm-2") })
			o.targets = map[string]*corev1.Pod{"vm-2": userPod("vm-2", "")}
			o.targets["vm-2"].UID = "10"
		}, stampPod: true, ready: "True Serving"},
		{name: "podDeleted names a pod that isn't there", scene: func(o *observed) {
			runs(withPod(o))
			edit(o, func(s *v1alpha1.NBDExportSpec) { s.ExitWhen[2].PodDeleted.Name = ptr.To("vm-2") })
		}, exit: "vm-gone", ready: "False Draining"},
		{name: "podDeleted has a selector now, nothing seen yet", scene: func(o *observed) {
			runs(withPod(o))
			edit(o, func(s *v1alpha1.NBDExportSpec) {
				s.ExitWhen[2].PodDeleted = &v1alpha1.PodDeleted{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}
			})
		}, stampPod: true, ready: "True Serving"},
		{name: "podDeleted has an invalid selector now", scene: func(o *observed) {
			runs(withPod(o))
			edit(o, func(s *v1alpha1.NBDExportSpec) {
				s.ExitWhen[2].PodDeleted = &v1alpha1.PodDeleted{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b c"}}}
			})
		}, stampPod: true, ready: "True Serving", words: "the selector of the exit condition vm-gone is invalid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := scene()
			c.scene(o)
			p := decide(o)
			if p.pod != c.pod || p.releasePod != c.releasePod || p.stampPod != c.stampPod || p.again != c.again {
				t.Errorf("pod %v, release %v, stamp %v, again %v\nwant %v, %v, %v, %v", p.pod, p.releasePod, p.stampPod, p.again, c.pod, c.releasePod, c.stampPod, c.again)
			}
			exit := ""
			if p.exit != nil {
				exit = p.exit.Condition
			}
			if exit != c.exit {
				t.Errorf("exit %q, want %q", exit, c.exit)
			}
			ready, message := said(p, v1alpha1.ConditionReady)
			if ready != c.ready || !strings.Contains(message, c.words) {
				t.Errorf("Ready is %q (%s), want %q with %q", ready, message, c.ready, c.words)
			}
			if progressing, _ := said(p, v1alpha1.ConditionProgressing); strings.HasSuffix(ready, "Updating") && progressing != "True Updating" {
				t.Errorf("Progressing is %q", progressing)
			}
		})
	}
}

// TestUpdateService has the Service follow the spec while its pod drains for it.
func TestUpdateService(t *testing.T) {
	o := scene()
	runs(withPod(o))
	edit(o, func(s *v1alpha1.NBDExportSpec) {
		s.Drain.TimeoutSeconds, s.Service.Port = ptr.To[int32](61), ptr.To[int32](1)
	})
	p := decide(o)
	if s := statusOf(o.export, p); !p.applyService || ptr.Deref(s.URI, "") != "nbd://nbd-e.vms.svc:1/disk" {
		t.Errorf("Service applied: %v, URI %s", p.applyService, ptr.Deref(s.URI, ""))
	}
}
