package controller_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// try changes the spec of an export.
func (w *world) try(name string, change func(*v1alpha1.NBDExportSpec)) error {
	w.Helper()
	e := w.read(name)
	base := e.DeepCopy()
	change(&e.Spec)
	return kube.Patch(context.Background(), e, client.MergeFrom(base))
}

// change is try, and has to be taken.
func (w *world) change(name string, change func(*v1alpha1.NBDExportSpec)) {
	w.Helper()
	if err := w.try(name, change); err != nil {
		w.Fatal(err)
	}
}

// observed waits until the operator has looked at an export as it is.
func (w *world) observed(name string) *v1alpha1.NBDExport {
	w.Helper()
	var e *v1alpha1.NBDExport
	eventually(w.T, "the generation should be observed", func() string {
		if e = w.read(name); ptr.Deref(e.Status.ObservedGeneration, 0) != e.Generation {
			return "it isn't"
		}
		return ""
	})
	return e
}

// same fails unless a pod is there still and goes on.
func same(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	var is corev1.Pod
	get(t, client.ObjectKeyFromObject(pod), &is)
	if is.UID != pod.UID || !is.DeletionTimestamp.IsZero() {
		t.Errorf("%s is another one, or on its way out", pod.Name)
	}
}

// TestChange changes what takes a new pod: the old one drains, and the new one, which
// follows when it is over, is as the spec says.
func TestChange(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*v1alpha1.NBDExportSpec){
		"volumes":     func(s *v1alpha1.NBDExportSpec) { s.Volumes[0].Access = ptr.To(v1alpha1.ReadWrite) },
		"exitWhen":    func(s *v1alpha1.NBDExportSpec) { s.ExitWhen[1].FileCreated.Path = "/run/nbdexport/end" },
		"pollSeconds": func(s *v1alpha1.NBDExportSpec) { s.PollSeconds = ptr.To[int32](7) },
		"drain":       func(s *v1alpha1.NBDExportSpec) { s.Drain.TimeoutSeconds = ptr.To[int32](61) },
		"template": func(s *v1alpha1.NBDExportSpec) {
			s.Template = &v1alpha1.PodTemplate{NodeSelector: map[string]string{"disk": "fast"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			_, pod := running(w)
			w.change("e", change)
			w.deleting(pod)
			if *pod.DeletionGracePeriodSeconds != 615 {
				t.Errorf("it has %d seconds to drain", *pod.DeletionGracePeriodSeconds)
			}
			e := w.expect("e", v1alpha1.ConditionProgressing, yes, v1alpha1.ReasonUpdating)
			w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonUpdating)
			says(t, message(e, v1alpha1.ConditionProgressing), "("+name+")", "pod nbd-e", "615 seconds", "clients that are connected may finish")
			w.settled("e")
			if w.pod("nbd-e", nil).UID != pod.UID {
				t.Fatal("there is a new pod while the old one drains")
			}
			w.end(pod, "signal=SIGTERM", 0)
			again := w.pod("nbd-e", pod)
			w.serve(again)
			e = w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
			if e.Status.Exit != nil || ptr.Deref(e.Status.ObservedGeneration, 0) != 2 {
				t.Errorf("status: %+v", e.Status)
			}
			w.settled("e-again")
			same(t, again)
		})
	}
}

// TestChangeInPlace changes what takes no new pod.
func TestChangeInPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm, pod := running(w)
	other := w.user("other", "node-1", "")

	w.change("e", func(s *v1alpha1.NBDExportSpec) {
		s.Service.Port, s.TTLSecondsAfterFinished = ptr.To[int32](4711), ptr.To[int32](3600)
	})
	e := w.observed("e")
	var svc corev1.Service
	get(t, w.key("nbd-e"), &svc)
	if !strings.HasSuffix(ptr.Deref(e.Status.URI, ""), ".svc:4711/disk") || svc.Spec.Ports[0].Port != 4711 {
		t.Errorf("URI %s, Service %+v", ptr.Deref(e.Status.URI, ""), svc.Spec.Ports)
	}

	w.change("e", func(s *v1alpha1.NBDExportSpec) { s.ExitWhen[0].PodDeleted.Name = ptr.To("other") })
	want := v1alpha1.WatchedPod{Name: "vm-gone", UID: string(other.UID), PodName: ptr.To("other")}
	eventually(t, "the other pod should be on record", func() string {
		if got := w.read("e").Status.WatchedPods; len(got) != 1 || !equality.Semantic.DeepEqual(got[0], want) {
			return "on record: " + string(must(yaml.Marshal(got)))
		}
		return ""
	})
	w.remove(vm)
	w.kill(vm)
	w.change("e", func(s *v1alpha1.NBDExportSpec) { s.ExitWhen = s.ExitWhen[1:] })
	eventually(t, "no pod should be on record", func() string {
		if got := w.read("e").Status.WatchedPods; len(got) > 0 {
			return "on record: " + string(must(yaml.Marshal(got)))
		}
		return ""
	})
	w.change("e", func(s *v1alpha1.NBDExportSpec) {
		s.ExitWhen = append(s.ExitWhen, v1alpha1.ExitCondition{Name: "other-gone", PodDeleted: &v1alpha1.PodDeleted{Name: ptr.To("other")}})
	})
	w.observed("e")
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	same(t, pod)
	w.remove(other)
	w.deleting(pod)
	if x := w.read("e").Status.Exit; x == nil || x.Condition != "other-gone" {
		t.Errorf("exit: %+v", x)
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// TestMistakeMended names a claim that doesn't exist, then one that can't be
// scheduled, then the right one: nobody waits for a pod that never served.
func TestMistakeMended(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("disk", corev1.ReadWriteOnce, false)
	w.claim("other", corev1.ReadWriteOnce, false)
	claim := func(name string) {
		w.change("e", func(s *v1alpha1.NBDExportSpec) { s.Volumes[0].Source.PersistentVolumeClaim.ClaimName = name })
	}
	w.export("e", strings.Replace(ofClaim, "claimName: disk", "claimName: dsik", 1))
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonClaimNotFound)
	claim("other")
	pod := w.pod("nbd-e", nil)
	claim("disk")
	again := w.pod("nbd-e", pod)
	for _, v := range again.Spec.Volumes {
		if c := v.PersistentVolumeClaim; c != nil && c.ClaimName != "disk" {
			t.Errorf("the pod has the claim %s", c.ClaimName)
		}
	}
	w.bind(again, "node-1")
	w.kubelet(again, func(s *corev1.PodStatus) {
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "nbdserver", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}}}}
	})
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonImagePullFailed)
	claim("other")
	w.deleting(again)
	e := w.expect("e", v1alpha1.ConditionProgressing, yes, v1alpha1.ReasonUpdating)
	says(t, message(e, v1alpha1.ConditionProgressing), "(volumes)", "hasn't run")
}

// TestUpgradeLeavesPods finds pods whose stamp another version of the operator has
// made, or none: they go on, and are stamped anew, so that the next change isn't
// taken for one of all that differs.
func TestUpgradeLeavesPods(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, pod := running(w)
	for _, stamp := range []string{"generation=1,drain=00000000,cipher=11111111", ""} {
		w.stop()
		get(t, w.key("nbd-e"), pod)
		base := pod.DeepCopy()
		pod.Annotations[v1alpha1.AnnotationSpec] = stamp
		if err := kube.Patch(context.Background(), pod, client.MergeFrom(base)); err != nil {
			t.Fatal(err)
		}
		w.start()
		eventually(t, "the pod should be stamped", func() string {
			get(t, w.key("nbd-e"), pod)
			if got := pod.Annotations[v1alpha1.AnnotationSpec]; got == stamp {
				return "it has " + got
			}
			return ""
		})
		same(t, pod)
	}
	w.change("e", func(s *v1alpha1.NBDExportSpec) { s.Limits = &v1alpha1.Limits{Connections: ptr.To[int32](7)} })
	w.observed("e")
	w.settled("e")
	same(t, pod)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	w.change("e", func(s *v1alpha1.NBDExportSpec) { s.Drain.TimeoutSeconds = ptr.To[int32](61) })
	w.deleting(pod)
	e := w.expect("e", v1alpha1.ConditionProgressing, yes, v1alpha1.ReasonUpdating)
	says(t, message(e, v1alpha1.ConditionProgressing), "(drain)")
}

// TestEndedByWhatIsThereNoMore has the old server end by a condition that was taken out
// while no operator looked: the export goes on.
func TestEndedByWhatIsThereNoMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, pod := running(w)
	w.stop()
	w.end(pod, "file-created=/run/nbdexport/stop", 0)
	w.change("e", func(s *v1alpha1.NBDExportSpec) { s.ExitWhen = s.ExitWhen[:1] })
	w.start()
	w.deleting(pod)
	w.kill(pod)
	w.pod("nbd-e", pod)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonStarting)
	if e.Status.Exit != nil {
		t.Errorf("exit: %+v", e.Status.Exit)
	}
}

// TestNoChangeAfterTheEnd is refused whatever it is, from the time on at which the
// exit is on record; labels aren't the spec.
func TestNoChangeAfterTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm, pod := running(w)
	refused := func(change func(*v1alpha1.NBDExportSpec)) {
		t.Helper()
		err := w.try("e", change)
		if !apierrors.IsInvalid(err) {
			t.Fatalf("got %v", err)
		}
		says(t, err.Error(), "spec: Invalid value", "an exit condition was met, see status.exit: the spec can't change any more; delete the export and create it anew")
	}
	w.remove(vm)
	w.deleting(pod)
	refused(func(s *v1alpha1.NBDExportSpec) { s.ExitWhen = nil })
	refused(func(s *v1alpha1.NBDExportSpec) { s.Limits = &v1alpha1.Limits{Connections: ptr.To[int32](3)} })
	w.end(pod, "signal=SIGTERM", 0)
	e := w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonDrained)
	refused(func(s *v1alpha1.NBDExportSpec) { s.TTLSecondsAfterFinished = ptr.To[int32](0) })
	wake(w, e, "1")
}
