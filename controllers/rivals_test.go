package controllers

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// TestUsedByAnotherExport has a second export of the claim, made before or after
// the one at noon, with a pod or without.
func TestUsedByAnotherExport(t *testing.T) {
	const ro, rw, cow = v1alpha1.ReadOnly, v1alpha1.ReadWrite, v1alpha1.CopyOnWrite
	before, after := noon.Add(-time.Hour), noon.Add(time.Hour)
	at := metav1.NewTime(noon)
	for _, c := range []struct {
		name         string
		mine, theirs v1alpha1.Access
		made         time.Time
		pod          func(*corev1.Pod) // nil if there is none
		change       func(mine, theirs *v1alpha1.NBDExport)
		want         bool
	}{
		{name: "both to read", mine: ro, theirs: ro, made: before, pod: func(*corev1.Pod) {}},
		{name: "both to copy", mine: cow, theirs: cow, made: before, pod: func(*corev1.Pod) {}},
		{name: "to copy what theirs reads", mine: cow, theirs: ro, made: before, pod: func(*corev1.Pod) {}},
		{name: "to copy what theirs writes", mine: cow, theirs: rw, made: after, pod: func(*corev1.Pod) {}, want: true},
		{name: "to write what theirs copies", mine: rw, theirs: cow, made: after, pod: func(*corev1.Pod) {}, want: true},
		{name: "theirs runs and writes", mine: ro, theirs: rw, made: after, pod: func(*corev1.Pod) {}, want: true},
		{name: "theirs runs, mine writes", mine: rw, theirs: ro, made: after, pod: func(*corev1.Pod) {}, want: true},
		{name: "both write", mine: rw, theirs: rw, made: after, pod: func(*corev1.Pod) {}, want: true},
		{name: "theirs isn't scheduled", mine: rw, theirs: ro, made: after, pod: func(p *corev1.Pod) { p.Spec.NodeName = "" }, want: true},
		{name: "theirs drains", mine: rw, theirs: ro, made: after, pod: deleted, want: true},
		{name: "theirs has finished", mine: rw, theirs: ro, made: after, pod: func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }},
		{name: "theirs has reported", mine: rw, theirs: ro, made: after, pod: func(p *corev1.Pod) {
			server(p, terminated(0, reportOf(t, "signal=SIGTERM", 0)))
		}},
		{name: "theirs is gone, its pod runs", mine: ro, theirs: rw, made: after, pod: func(p *corev1.Pod) { p.OwnerReferences[0].UID = "0" }, want: true},
		{name: "theirs is complete, and a pod runs", mine: rw, theirs: ro, made: after, pod: func(*corev1.Pod) {}, change: complete, want: true},
		{name: "theirs only reads by now, its pod is of the spec before", mine: ro, theirs: ro, made: after, pod: func(p *corev1.Pod) {
			p.Annotations = map[string]string{v1alpha1.AnnotationSpec: "generation=1,volumes=00000000"}
		}, change: func(_, theirs *v1alpha1.NBDExport) { theirs.Generation = 2 }, want: true},
		{name: "theirs drains for another change", mine: ro, theirs: ro, made: after, pod: func(p *corev1.Pod) {
			e := another("other", ro, after)
			p.Annotations = map[string]string{v1alpha1.AnnotationSpec: desired.Stamp(&e)}
		}, change: func(_, theirs *v1alpha1.NBDExport) { theirs.Generation, theirs.Spec.PollSeconds = 2, ptr.To[int32](7) }},
		{name: "somebody else's pod", mine: rw, theirs: rw, made: after, pod: func(p *corev1.Pod) { p.Labels = nil }},

		{name: "older, no pod yet", mine: ro, theirs: rw, made: before, want: true},
		{name: "older, both to read", mine: ro, theirs: ro, made: before},
		{name: "older, both to copy", mine: cow, theirs: cow, made: before},
		{name: "younger", mine: ro, theirs: rw, made: after},
		{name: "same age, name decides", mine: rw, theirs: rw, made: noon},
		{name: "same age, name decides for theirs", mine: rw, theirs: rw, made: noon,
			change: func(mine, _ *v1alpha1.NBDExport) { mine.Name = "zz" }, want: true},
		{name: "older, complete", mine: rw, theirs: rw, made: before, change: complete},
		{name: "older, ends", mine: rw, theirs: rw, made: before,
			change: func(_, theirs *v1alpha1.NBDExport) { theirs.Status.Exit = &v1alpha1.ExitStatus{} }},
		{name: "older, being deleted", mine: rw, theirs: rw, made: before,
			change: func(_, theirs *v1alpha1.NBDExport) { theirs.DeletionTimestamp = &at }},
		{name: "older, of another claim", mine: rw, theirs: rw, made: before,
			change: func(_, theirs *v1alpha1.NBDExport) {
				theirs.Spec.Volumes[0].Source.PersistentVolumeClaim.ClaimName = "x"
			}},
		{name: "older, mine has served", mine: rw, theirs: rw, made: before,
			change: func(mine, _ *v1alpha1.NBDExport) { mine.Status.PodName = ptr.To("nbd-e") }},
		{name: "younger, theirs has served", mine: rw, theirs: rw, made: after,
			change: func(_, theirs *v1alpha1.NBDExport) { theirs.Status.PodName = ptr.To("nbd-other") }, want: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := scene()
			o.export.Spec.Volumes[0].Access = ptr.To(c.mine)
			other := another("other", c.theirs, c.made)
			if c.change != nil {
				c.change(o.export, &other)
			}
			o.others = []v1alpha1.NBDExport{other}
			if c.pod != nil {
				pod := podOf(other, "node-7")
				c.pod(pod)
				o.users["disk"] = []corev1.Pod{*pod}
			}
			p := decide(o)
			if got := p.pod != podCreate; got != c.want {
				t.Fatalf("blocked %v, want %v: %+v", got, c.want, p.say)
			}
			if !c.want {
				return
			}
			reason, message := said(p, v1alpha1.ConditionReady)
			expectFinding(t, finding{reason, message}, "False "+v1alpha1.ReasonVolumeInUse, []string{"NBDExport other", "PersistentVolumeClaim disk", "ReadOnly"})

			// An export that has its pod already is left alone.
			withPod(o).Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			if p := decide(o); p.pod != podKeep {
				t.Errorf("the pod that is there already: %v", p.pod)
			}
			if f, found := usedByAnotherExport(o); found {
				t.Errorf("said of a pod that is there already: %+v", f)
			}
		})
	}
}

// TestClaimMovedOn has another export take another claim: as long as its pod drains that was
// made for this one, no second pod has it. The other export isn't found by the claim then.
func TestClaimMovedOn(t *testing.T) {
	other := another("other", v1alpha1.ReadWrite, noon)
	for name, c := range map[string]struct {
		pod  func(*corev1.Pod)
		want podAction
	}{
		"runs":             {func(*corev1.Pod) {}, podKeep},
		"drains":           {deleted, podKeep},
		"deleted by force": {func(p *corev1.Pod) { deleted(p); p.DeletionGracePeriodSeconds = new(int64) }, podKeep},
		"its node is gone": {func(p *corev1.Pod) { deleted(p); p.Spec.NodeName = "gone" }, podKeep},
		"has ended":        {func(p *corev1.Pod) { deleted(p); over(p, 0, "") }, podCreate},
		"was never on one": {func(p *corev1.Pod) { deleted(p); p.Spec.NodeName = "" }, podCreate},
	} {
		o := scene()
		pod := podOf(other, "node-7")
		c.pod(pod)
		o.users["disk"] = []corev1.Pod{*pod}
		if p := decide(o); p.pod != c.want {
			t.Errorf("%s: %v: %+v", name, p.pod, p.say)
		}
	}
}

func complete(_, e *v1alpha1.NBDExport) {
	e.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionComplete, Status: metav1.ConditionTrue}}
}

// shelf is an API server that has exports and pods to read, and takes nothing.
type shelf struct {
	client.Client
	exports []v1alpha1.NBDExport
	pods    []*corev1.Pod
}

func (s shelf) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	list.(*v1alpha1.NBDExportList).Items = s.exports
	return nil
}

func (s shelf) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	for _, pod := range s.pods {
		if pod.Name == key.Name {
			pod.DeepCopyInto(obj.(*corev1.Pod))
			return nil
		}
	}
	return apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, key.Name)
}

// TestPodNotInCache makes a pod while the cache doesn't know yet that another export
// has got one.
func TestPodNotInCache(t *testing.T) {
	other := another("other", v1alpha1.ReadWrite, noon.Add(time.Hour))
	o := scene()
	p := decide(o)
	if p.pod != podCreate {
		t.Fatalf("%+v", p)
	}
	r := &Reconciler{Client: shelf{exports: []v1alpha1.NBDExport{*o.export, other}}, Live: shelf{pods: []*corev1.Pod{podOf(other, "")}}}
	if err := r.createPod(context.Background(), o, &p); err != nil {
		t.Fatal(err)
	}
	if got, message := said(p, v1alpha1.ConditionReady); p.pod != podKeep || got != "False "+v1alpha1.ReasonVolumeInUse {
		t.Errorf("%v, %s: %s", p.pod, got, message)
	}

	r.Live = shelf{}
	if f, found, err := r.lookAgain(context.Background(), scene()); found || err != nil {
		t.Errorf("nobody has a pod, but: %+v, %v", f, err)
	}
}
