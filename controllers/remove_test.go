package controllers

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// grave notes what is to be deleted under which conditions.
type grave struct {
	client.Client
	opts client.DeleteOptions
}

func (g *grave) Delete(_ context.Context, _ client.Object, opts ...client.DeleteOption) error {
	g.opts.ApplyOptions(opts)
	return nil
}

// TestRemovePod deletes a pod only as it was read: its server may have started
// since then.
func TestRemovePod(t *testing.T) {
	pod := &corev1.Pod{}
	pod.UID, pod.ResourceVersion = "2", "7"
	var g grave
	if err := (&Reconciler{Client: &g}).removePod(context.Background(), pod); err != nil {
		t.Fatal(err)
	}
	if p := g.opts.Preconditions; p == nil || *p.UID != "2" || p.ResourceVersion == nil || *p.ResourceVersion != "7" || g.opts.GracePeriodSeconds != nil {
		t.Errorf("%+v", g.opts)
	}
}
