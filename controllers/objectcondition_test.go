package controllers

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// answering is an API server that has one object, or answers with an error.
type answering struct {
	client.Reader
	status map[string]any
	err    error
}

func (a answering) Get(_ context.Context, _ client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	obj.(*unstructured.Unstructured).Object["status"] = any(a.status)
	return a.err
}

func TestLookAt(t *testing.T) {
	conditions := func(list ...any) map[string]any { return map[string]any{"conditions": list} }
	is := func(kind, status string) map[string]any { return map[string]any{"type": kind, "status": status} }
	job := schema.GroupResource{Group: "batch", Resource: "jobs"}
	for _, c := range []struct {
		name    string
		server  answering
		met     bool
		trouble string
	}{
		{name: "is", server: answering{status: conditions(is("Ready", "False"), is("Complete", "True"))}, met: true},
		{name: "is not", server: answering{status: conditions(is("Complete", "False"))}},
		{name: "has others", server: answering{status: conditions(is("Ready", "True"))}},
		{name: "has none", server: answering{status: map[string]any{}}},
		{name: "has something else", server: answering{status: map[string]any{"conditions": "True"}}},
		{name: "has strange ones", server: answering{status: conditions("Complete", is("Complete", "True"))}, met: true},
		{name: "isn't there", server: answering{err: apierrors.NewNotFound(job, "backup")}},
		{name: "forbidden", server: answering{err: apierrors.NewForbidden(job, "backup", errors.New("no"))}, trouble: "may not get objects of kind Job in batch/v1"},
		{name: "unknown kind", server: answering{err: &meta.NoKindMatchError{}}, trouble: "no kind Job in batch/v1"},
		{name: "unreachable", server: answering{err: errors.New("read tcp 10.0.0.1:40001: reset")}, trouble: "the Job backup can't be read for now"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &Reconciler{Live: c.server}
			got := r.lookAt(context.Background(), "vms", v1alpha1.ObjectCondition{
				APIVersion: "batch/v1", Kind: "Job", Name: "backup", Condition: "Complete", Status: ptr.To(metav1.ConditionTrue)})
			if got.met != c.met || (got.trouble == "") != (c.trouble == "") || !strings.Contains(got.trouble, c.trouble) || strings.Contains(got.trouble, "40001") {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestLookAtSecret: no Secret is asked for, whoever would like to know about it.
func TestLookAtSecret(t *testing.T) {
	r := &Reconciler{} // which can ask nobody
	got := r.lookAt(context.Background(), "vms", v1alpha1.ObjectCondition{APIVersion: "v1", Kind: "Secret", Name: "x", Condition: "Ready", Status: ptr.To(metav1.ConditionTrue)})
	if got.met || !strings.Contains(got.trouble, "a Secret has no conditions") {
		t.Errorf("%+v", got)
	}
}

// TestObjectCondition decides upon what was seen of an object.
func TestObjectCondition(t *testing.T) {
	look := func(l looked) *observed {
		o := scene()
		o.export.Spec.PollSeconds = ptr.To[int32](60)
		o.export.Spec.ExitWhen = append(o.export.Spec.ExitWhen, v1alpha1.ExitCondition{Name: "done", ObjectCondition: &v1alpha1.ObjectCondition{}})
		o.objects = map[string]looked{"done": l}
		return o
	}
	if p := decide(look(looked{})); p.pod != podCreate || p.again != time.Minute {
		t.Errorf("not met: pod %v, again %v", p.pod, p.again)
	}
	if p := decide(look(looked{met: true})); p.exit == nil || p.exit.Condition != "done" || p.exit.Reason != v1alpha1.ExitObjectCondition {
		t.Errorf("met: exit %+v", p.exit)
	}
	o := look(looked{trouble: "no"})
	p := decide(o)
	if ready, text := said(p, v1alpha1.ConditionReady); p.pod != podKeep || p.again != time.Minute || ready != "False InvalidCondition" || !strings.Contains(text, "done") {
		t.Errorf("trouble: pod %v, again %v, Ready %s: %s", p.pod, p.again, ready, text)
	}
	withPod(o).Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	p = decide(o)
	if ready, text := said(p, v1alpha1.ConditionReady); p.pod != podKeep || ready != "True Serving" || !strings.Contains(text, "the exit condition done can't be watched: no") {
		t.Errorf("trouble while serving: pod %v, Ready %s: %s", p.pod, ready, text)
	}
}
