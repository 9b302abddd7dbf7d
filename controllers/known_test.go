package controllers

import (
	"context"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestKnown compares versions with what was seen before: only older ones are
// left alone.
func TestKnown(t *testing.T) {
	var k known
	e := scene().export
	e.ResourceVersion = "99"
	if k.newerThan(e) {
		t.Error("nothing is known")
	}
	e.ResourceVersion = "100"
	k.note(e)
	for version, want := range map[string]bool{"99": true, "100": false, "101": false, "": false, "odd": false} {
		e.ResourceVersion = version
		if got := k.newerThan(e); got != want {
			t.Errorf("a newer version than %q is known: %v", version, got)
		}
	}
	e.ResourceVersion = "99"
	k.forget(client.ObjectKeyFromObject(e))
	if k.newerThan(e) {
		t.Error("it is forgotten")
	}
}

// behind is a cache that has an export in one version, and nothing else.
type behind struct {
	client.Client
	version string
}

func (b behind) Get(_ context.Context, _ client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	*obj.(*v1alpha1.NBDExport) = *scene().export // any other kind isn't asked for
	obj.SetResourceVersion(b.version)
	return nil
}

// TestOldVersionIsLeftAlone: nothing is read or done for an export that was written in
// a later version than the cache has.
func TestOldVersionIsLeftAlone(t *testing.T) {
	r := &Reconciler{Client: behind{version: "99"}}
	e := scene().export
	e.ResourceVersion = "100"
	r.known.note(e)
	res, err := r.Reconcile(context.Background(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(e)})
	if err != nil || res != (ctrl.Result{}) {
		t.Errorf("%+v, %v", res, err)
	}
}

// TestStartIsSaidOnce: from the record of the pods that end an export to the server's
// start nothing new is said, so that nothing is written.
func TestStartIsSaidOnce(t *testing.T) {
	o := scene()
	o.export.Status.WatchedPods = nil
	p := decide(o)
	if p.pod != podKeep || p.watched == nil {
		t.Fatalf("a pod is made before it is on record what ends it: %+v", p)
	}
	o.export.Status = ptr.To(statusOf(o.export, p))
	if got := ptr.Deref(o.export.Status.PodName, ""); got != "nbd-e" {
		t.Errorf("pod name %q", got)
	}
	for name, step := range map[string]func(){
		"to be made": func() { o.pod = nil },
		"made":       func() { withPod(o).Spec.NodeName = "" },
		"on a node":  func() { withPod(o) },
		"started":    func() { runsSince(withPod(o), noon) },
	} {
		step()
		if got := statusOf(o.export, decide(o)); !equality.Semantic.DeepEqual(got, o.export.GetStatus()) {
			t.Errorf("%s: the status changes to\n%+v\nfrom\n%+v", name, got, o.export.Status)
		}
	}
}
