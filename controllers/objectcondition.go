package controllers

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// looked is what came of a look at the object of an objectCondition.
type looked struct {
	// met says that the object has the condition.
	met bool
	// trouble says why it couldn't be looked at; empty if it could.
	trouble string
}

// objectCondition looks whether an object has a condition that ends the export.
func objectCondition(o *observed) (v1alpha1.ExitStatus, bool) {
	for _, c := range o.export.Spec.ExitWhen {
		if o.objects[c.Name].met {
			now := metav1.NewTime(o.now)
			return v1alpha1.ExitStatus{Condition: c.Name, Reason: v1alpha1.ExitObjectCondition, StartedAt: &now}, true
		}
	}
	return v1alpha1.ExitStatus{}, false
}

// objectsOf looks at the objects of the objectConditions of an export, by the name
// of the exit condition.
//
// They are asked for one by one, at intervals, and not watched: to watch takes the
// right to list all objects of a kind and the memory for them, and an informer
// of a kind that is forbidden or not installed never comes to an end of trying.
func (r *Reconciler) objectsOf(ctx context.Context, e *v1alpha1.NBDExport) map[string]looked {
	out := map[string]looked{}
	for _, c := range e.Spec.ExitWhen {
		if c.ObjectCondition != nil {
			out[c.Name] = r.lookAt(ctx, e.Namespace, *c.ObjectCondition)
		}
	}
	return out
}

// lookAt asks the API server for an object. An error that passes isn't returned,
// since it must not keep the export from what else it needs, nor is it told in
// its own words, which may be others each time. Secrets, which have no conditions, aren't
// asked for, although the operator may get them: not for whoever may create an export.
func (r *Reconciler) lookAt(ctx context.Context, namespace string, c v1alpha1.ObjectCondition) looked {
	if c.APIVersion == "v1" && c.Kind == "Secret" {
		return looked{trouble: "a Secret has no conditions, and isn't read for that: name an object of another kind"}
	}
	obj := &unstructured.Unstructured{}
	obj.SetGroupVersionKind(schema.FromAPIVersionAndKind(c.APIVersion, c.Kind))
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: c.Name}, obj)
	switch {
	case err == nil:
		return looked{met: hasCondition(obj, c)}
	case meta.IsNoMatchError(err):
		return looked{trouble: fmt.Sprintf("the API server has no kind %s in %s: install it, or change the condition", c.Kind, c.APIVersion)}
	case apierrors.IsNotFound(err):
		return looked{}
	case apierrors.IsForbidden(err):
		return looked{trouble: fmt.Sprintf("the operator may not get objects of kind %s in %s: give its service account that right", c.Kind, c.APIVersion)}
	}
	ctrl.LoggerFrom(ctx).Error(err, "can't look at the object of an exit condition", "kind", c.Kind, "object", c.Name)
	return looked{trouble: fmt.Sprintf("the %s %s can't be read for now: this is tried again, and the operator's log says what the trouble is", c.Kind, c.Name)}
}

// hasCondition tells whether an object has a condition. What isn't in the usual
// form has none.
func hasCondition(obj *unstructured.Unstructured, c v1alpha1.ObjectCondition) bool {
	list, _, err := unstructured.NestedSlice(obj.Object, "status", "conditions")
	if err != nil {
		return false
	}
	for _, item := range list {
		if m, ok := item.(map[string]any); ok && m["type"] == c.Condition && m["status"] == string(c.GetStatus()) {
			return true
		}
	}
	return false
}

// unwatchable finds an objectCondition whose object can't be looked at.
func unwatchable(o *observed) (finding, bool) {
	for _, c := range o.export.Spec.ExitWhen {
		if trouble := o.objects[c.Name].trouble; trouble != "" {
			return found(v1alpha1.ReasonInvalidCondition, "the exit condition %s can't be watched: %s", c.Name, trouble)
		}
	}
	return finding{}, false
}

// untilNextLook has a plan made again when the objects of objectConditions are due
// to be looked at.
func (p *plan) untilNextLook(o *observed) {
	if len(o.objects) > 0 {
		p.lookAgainIn(time.Duration(o.export.Spec.GetPollSeconds()) * time.Second)
	}
}
