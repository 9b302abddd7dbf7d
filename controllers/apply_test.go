package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

func TestRefused(t *testing.T) {
	forbidden := func(causes ...metav1.StatusCause) error {
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: "no",
			Details: &metav1.StatusDetails{Causes: causes},
		}}
	}
	tests := []struct {
		name      string
		err       error
		said, out bool // a condition says it, and it is tried again; the error is returned
	}{
		{"no error", nil, false, false},
		{"a quota or a policy", forbidden(), true, false},
		{"the namespace is being deleted", forbidden(metav1.StatusCause{Type: corev1.NamespaceTerminatingCause}), false, false},
		{"invalid", apierrors.NewBadRequest("no"), true, false},
		{"a webhook fails", apierrors.NewInternalError(errors.New("no")), false, true},
		{"the API server is down", errors.New("connection refused"), false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p plan
			if out := p.refused("the pod", tt.err); (out != nil) != tt.out {
				t.Errorf("error %v", out)
			}
			if said := len(p.say) > 0; said != tt.said {
				t.Errorf("says %v", p.say)
			}
			if again := p.again == refusedDelay; again != tt.said {
				t.Errorf("again in %v", p.again)
			}
		})
	}

	p := plan{again: time.Second}
	if err := p.refused("the pod", forbidden()); err != nil || p.again != time.Second {
		t.Errorf("again in %v, which is later than planned; error %v", p.again, err)
	}
}

// refusing is an API server that takes no pod.
type refusing struct {
	client.Client
	err error
}

func (r refusing) Patch(context.Context, client.Object, client.Patch, ...client.PatchOption) error {
	return nil
}

func (r refusing) Apply(context.Context, runtime.ApplyConfiguration, ...client.ApplyOption) error {
	return r.err
}

// TestPodNotMade looks at what is said when the pod couldn't be made.
func TestPodNotMade(t *testing.T) {
	for name, c := range map[string]struct {
		err          error
		ready, words string
	}{
		"made":        {nil, "False Starting", "is being made"},
		"webhook":     {apierrors.NewInternalError(errors.New("no")), "False Starting", "hasn't taken the pod yet"},
		"conflict":    {apierrors.NewConflict(schema.GroupResource{}, "x", errors.New("no")), "False Starting", "hasn't taken the pod yet"},
		"unreachable": {errors.New("read tcp 10.0.0.1:40001: reset"), "False Starting", "hasn't taken the pod yet"},
		"refused":     {apierrors.NewBadRequest("no"), "False PodRejected", "the API server refuses the pod: no"},
		"quota":       {apierrors.NewForbidden(schema.GroupResource{}, "x", errors.New("quota")), "False PodRejected", "quota"},
	} {
		t.Run(name, func(t *testing.T) {
			o := scene()
			o.export.Spec.Volumes, o.export.Spec.ExitWhen = o.export.Spec.Volumes[1:], nil // the memory volume
			p := decide(o)
			r := &Reconciler{Client: refusing{err: c.err}}
			if err := r.createPod(context.Background(), o, &p); err == nil && strings.Contains(c.words, "hasn't") {
				t.Error("the error is lost")
			}
			e := o.export
			e.Status = ptr.To(statusOf(e, p))
			ready := conditionOf(e.GetStatus(), v1alpha1.ConditionReady)
			if got := string(ready.Status) + " " + ready.Reason; got != c.ready || !strings.Contains(ready.Message, c.words) {
				t.Errorf("Ready is %s: %s", got, ready.Message)
			}
			if c.err != nil && (strings.Contains(ready.Message, "being made") || strings.Contains(ready.Message, "40001") || e.Status.PodName != nil) {
				t.Errorf("pod %q: %s", ptr.Deref(e.Status.PodName, ""), ready.Message)
			}
		})
	}
}

// without is an API server that takes everything but one kind.
type without struct {
	client.Client
	kind string
	err  error
	made *[]string
}

func (w without) Create(_ context.Context, obj client.Object, _ ...client.CreateOption) error {
	if _, secret := obj.(*corev1.Secret); secret && w.kind == "Secret" {
		return w.err
	}
	return nil
}

func (w without) Delete(_ context.Context, obj client.Object, _ ...client.DeleteOption) error {
	if _, pod := obj.(*corev1.Pod); pod {
		*w.made = append(*w.made, "no Pod")
	}
	return nil
}

func (w without) Patch(context.Context, client.Object, client.Patch, ...client.PatchOption) error {
	return nil
}

func (w without) Apply(_ context.Context, obj runtime.ApplyConfiguration, _ ...client.ApplyOption) error {
	kind := *obj.(interface{ GetKind() *string }).GetKind()
	if kind == w.kind {
		return w.err
	}
	*w.made = append(*w.made, kind)
	return nil
}

// TestPodNeeds makes no pod as long as anything isn't there that it needs.
func TestPodNeeds(t *testing.T) {
	for _, kind := range []string{"Service", "ConfigMap", "NetworkPolicy", "none"} {
		o := scene()
		o.export.Spec.Volumes, o.export.Spec.ExitWhen = o.export.Spec.Volumes[1:], nil // the memory volume
		p := decide(o)
		var made []string
		err := (&Reconciler{Client: without{kind: kind, err: apierrors.NewInternalError(errors.New("range is full")), made: &made}}).apply(context.Background(), o, &p)
		if got := slices.Contains(made, "Pod"); got != (kind == "none") || (err == nil) != (kind == "none") {
			t.Errorf("%s: %v is made, error %v", kind, made, err)
		}
		if c := conditionOf(statusOf(o.export, p), v1alpha1.ConditionReady); kind != "none" && !strings.Contains(c.Message, "tried again") {
			t.Errorf("%s: %s", kind, c.Message)
		}
	}
}

// TestServiceGone has a server run whose Service is gone, and can't be made again.
func TestServiceGone(t *testing.T) {
	for name, c := range map[string]struct {
		scene  func(*observed)
		kind   string
		failed error
		want   string
	}{
		"made again":    {func(*observed) {}, "none", nil, "True Serving"},
		"not taken":     {func(*observed) {}, "Service", apierrors.NewInternalError(errors.New("range is full")), "False ServiceMissing"},
		"refused":       {func(*observed) {}, "Service", apierrors.NewForbidden(schema.GroupResource{}, "x", errors.New("quota")), "False PodRejected"},
		"not ready yet": {func(o *observed) { o.pod.Status.Conditions = nil }, "Service", apierrors.NewInternalError(errors.New("no")), "False NotReady"},
		"there, but not corrected": {func(o *observed) {
			o.service = &corev1.Service{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{ownerRef("1")}}}
		}, "Service", apierrors.NewInternalError(errors.New("no")), "True Serving"},
		"the ConfigMap not taken": {func(*observed) {}, "ConfigMap", apierrors.NewInternalError(errors.New("no")), "True Serving"},
	} {
		o := scene()
		runs(withPod(o))
		c.scene(o)
		p := decide(o)
		r := &Reconciler{Client: without{kind: c.kind, err: c.failed, made: new([]string)}}
		_ = r.apply(context.Background(), o, &p)
		if got, message := said(p, v1alpha1.ConditionReady); got != c.want {
			t.Errorf("%s: Ready is %s: %s", name, got, message)
		}
	}
}

// TestDrainsAllTheSame has a pod removed although what is made beside it isn't taken.
func TestDrainsAllTheSame(t *testing.T) {
	for _, conflict := range []bool{false, true} {
		o := scene()
		o.export.Spec.TLS.Mode = ptr.To(v1alpha1.TLSRequired)
		runs(withPod(o))
		edit(o, func(s *v1alpha1.NBDExportSpec) { s.PollSeconds = ptr.To[int32](7) })
		o.service = ownService(t, o.export)
		o.trust.addresses = o.service.Spec.ClusterIPs
		p := decide(o)
		if p.applyService || !p.certify || p.pod != podRemove {
			t.Fatalf("%+v", p)
		}
		var made []string
		err := apierrors.NewInternalError(errors.New("no Secrets"))
		if conflict {
			err = apierrors.NewConflict(schema.GroupResource{}, "x", errors.New("changed"))
		}
		_ = (&Reconciler{Client: without{kind: "Secret", err: err, made: &made}}).apply(context.Background(), o, &p)
		if got, message := said(p, v1alpha1.ConditionReady); !slices.Contains(made, "no Pod") || got != "False "+v1alpha1.ReasonUpdating {
			t.Errorf("conflict %v: %v, %s: %s", conflict, made, got, message)
		}
	}
}

// TestAddressesStay renews certificates also while the Service can't be corrected.
func TestAddressesStay(t *testing.T) {
	o := scene()
	o.service = ownService(t, o.export)
	o.trust.addresses = o.service.Spec.ClusterIPs
	p := decide(o)
	_ = (&Reconciler{Client: without{kind: "Service", err: apierrors.NewBadRequest("no"), made: new([]string)}}).applyService(context.Background(), o, &p)
	if len(o.trust.addresses) != 1 {
		t.Errorf("addresses %v", o.trust.addresses)
	}
}

// ownService is the Service of an export with an address.
func ownService(t *testing.T, e *v1alpha1.NBDExport) *corev1.Service {
	t.Helper()
	b, err := json.Marshal(desired.Service(e))
	if err != nil {
		t.Fatal(err)
	}
	s := &corev1.Service{}
	if err := json.Unmarshal(b, s); err != nil {
		t.Fatal(err)
	}
	s.Spec.ClusterIPs = []string{"10.0.0.1"}
	return s
}

// TestOverruled writes a verdict that overrules an earlier one over itself: nothing
// changes, and so no transition is recorded.
func TestOverruled(t *testing.T) {
	e := scene().export
	p := plan{say: append(underWay(v1alpha1.ReasonStarting, "x"), blocked(finding{v1alpha1.ReasonPodRejected, "y"})...)}
	e.Status = ptr.To(statusOf(e, p))
	long := metav1.NewTime(noon.Add(-time.Hour))
	for i := range e.Status.Conditions {
		e.Status.Conditions[i].LastTransitionTime = long
	}
	if again := statusOf(e, p); !equality.Semantic.DeepEqual(again, e.GetStatus()) {
		t.Errorf("%+v\nis not\n%+v", again.Conditions, e.Status.Conditions)
	}
	if c := conditionOf(e.GetStatus(), v1alpha1.ConditionProgressing); c.Status != metav1.ConditionFalse || c.Reason != v1alpha1.ReasonPodRejected {
		t.Errorf("Progressing: %+v", c)
	}
}
