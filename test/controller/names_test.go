package controller_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestServiceGone deletes the Service of an export that serves, while the API server takes
// no other. That is said, and the export is ready again when it does, with the same pod.
func TestServiceGone(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	config := rest.CopyConfig(operator)
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if broken.Load() && r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/services/") {
				return &http.Response{StatusCode: http.StatusInternalServerError, Request: r, Body: io.NopCloser(strings.NewReader("range is full"))}, nil
			}
			return rt.RoundTrip(r)
		})
	})
	w := &world{T: t, ns: namespace(t), config: config}
	w.start()
	t.Cleanup(func() { w.stop() })
	_, pod := running(w)

	broken.Store(true)
	w.remove(w.service())
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonServiceMissing)
	says(t, message(e, v1alpha1.ConditionReady), "Service is gone", "tried again")
	broken.Store(false)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	same(t, pod)
	w.service()
}

// TestServiceTaken has somebody else take the name of the Service of an export that serves,
// while there is no operator.
func TestServiceTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, pod := running(w)
	w.stop()
	w.remove(w.service())
	foreign := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "nbd-e"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}
	w.must(foreign)
	w.start()
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonNameTaken)
	says(t, message(e, v1alpha1.ConditionReady), "Service nbd-e", "remove it")
	w.settled("e")
	untouched(t, foreign, &corev1.Service{})

	w.remove(foreign)
	wake(w, e, "now") // it would be looked at again in half a minute
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	same(t, pod)
	if svc := w.service(); !metav1.IsControlledBy(svc, e) {
		t.Errorf("owners %+v", svc.OwnerReferences)
	}
}

// TestLabelReturns takes the label off a pod by which the Service finds it.
func TestLabelReturns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, pod := running(w)
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:null}}}`, v1alpha1.LabelExport)
	if err := kube.Patch(context.Background(), pod, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the label should be there again", func() string {
		get(t, w.key("nbd-e"), pod)
		if pod.Labels[v1alpha1.LabelExport] != "e" {
			return fmt.Sprint(pod.Labels)
		}
		return ""
	})
	w.settled("e")
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	same(t, pod)
}

// service reads the Service of the export "e".
func (w *world) service() *corev1.Service {
	w.Helper()
	svc := &corev1.Service{}
	get(w.T, w.key("nbd-e"), svc)
	return svc
}
