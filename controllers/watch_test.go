package controllers

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// TestExportOfOrphan finds the export of a pod that has no owner, under whatever
// name.
func TestExportOfOrphan(t *testing.T) {
	for _, name := range []string{"e", "a.b", strings.Repeat("x", 253)} {
		orphan := func() *corev1.Pod {
			return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
				Namespace: "vms", Name: desired.ChildName(name), Labels: desired.Labels(name),
				Annotations: map[string]string{v1alpha1.AnnotationExport: name},
				Finalizers:  []string{v1alpha1.FinalizerReport}}}
		}
		got := exportOfOrphan(context.Background(), orphan())
		if len(got) != 1 || got[0].Name != name || got[0].Namespace != "vms" {
			t.Errorf("%s: %v", name, got)
		}
		released := orphan()
		released.Finalizers, released.DeletionTimestamp = nil, &metav1.Time{}
		if got := exportOfOrphan(context.Background(), released); len(got) != 1 || got[0].Name != name {
			t.Errorf("%s, let go and on its way out: %v", name, got)
		}
		for what, change := range map[string]func(*corev1.Pod){
			"owned":         func(p *corev1.Pod) { p.OwnerReferences = []metav1.OwnerReference{ownerRef("1")} },
			"another name":  func(p *corev1.Pod) { p.Name = "vm" },
			"no annotation": func(p *corev1.Pod) { p.Annotations = nil },
			"no label":      func(p *corev1.Pod) { delete(p.Labels, v1alpha1.LabelExport) },
			"not held":      func(p *corev1.Pod) { p.Finalizers = nil },
		} {
			pod := orphan()
			change(pod)
			if got := exportOfOrphan(context.Background(), pod); len(got) != 0 {
				t.Errorf("%s, %s: %v", name, what, got)
			}
		}
	}
}

// TestExportMoved tells those who share a claim with an export when it takes others.
func TestExportMoved(t *testing.T) {
	from := scene().export
	for name, c := range map[string]struct {
		change func(*v1alpha1.NBDExport)
		want   bool
	}{
		"labels":  {func(e *v1alpha1.NBDExport) { e.Labels = map[string]string{"a": "b"} }, false},
		"limits":  {func(e *v1alpha1.NBDExport) { e.Spec.Limits = &v1alpha1.Limits{Connections: ptr.To[int32](7)} }, false},
		"claim":   {func(e *v1alpha1.NBDExport) { e.Spec.Volumes[0].Source.PersistentVolumeClaim.ClaimName = "x" }, true},
		"access":  {func(e *v1alpha1.NBDExport) { e.Spec.Volumes[0].Access = ptr.To(v1alpha1.ReadWrite) }, true},
		"it ends": {func(e *v1alpha1.NBDExport) { e.Status.Exit = &v1alpha1.ExitStatus{} }, true},
	} {
		to := from.DeepCopy()
		c.change(to)
		if got := exportMoved().Update(event.UpdateEvent{ObjectOld: from, ObjectNew: to}); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestRetries fails for hours.
func TestRetries(t *testing.T) {
	limiter := retries()
	var e reconcile.Request
	if first := limiter.When(e); first > time.Second {
		t.Errorf("the first after %v", first)
	}
	for range 1000 {
		limiter.When(e)
	}
	if last := limiter.When(e); last != refusedDelay {
		t.Errorf("the last after %v", last)
	}
}
