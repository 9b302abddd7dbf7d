package controller_test

import (
	"context"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// peers waits until the NetworkPolicy of the export "e" lets a number of peers in.
func (w *world) peers(want int) *networkingv1.NetworkPolicy {
	w.Helper()
	p := &networkingv1.NetworkPolicy{}
	eventually(w.T, "the peers in the NetworkPolicy", func() string {
		if err := kube.Get(context.Background(), w.key("nbd-e"), p); err != nil {
			return err.Error()
		}
		if len(p.Spec.Ingress) != 2 || len(p.Spec.Ingress[0].From) != want {
			return "not those"
		}
		return ""
	})
	return p
}

// changeNetworkPolicy changes what the export "e" says about it.
func (w *world) changeNetworkPolicy(to v1alpha1.NetworkPolicy) {
	w.Helper()
	e := w.read("e")
	base := e.DeepCopy()
	e.Spec.NetworkPolicy = ptr.To(to)
	if err := kube.Patch(context.Background(), e, client.MergeFrom(base)); err != nil {
		w.Fatal(err)
	}
}

// TestNetworkPolicyChanges lets fewer clients in while an export serves, then leaves
// that to others, and takes it back. Its pod stays as it is.
func TestNetworkPolicyChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, pod := running(w)
	p := w.peers(0)
	if !metav1.IsControlledBy(p, w.read("e")) {
		t.Errorf("owners: %+v", p.OwnerReferences)
	}
	backup := v1alpha1.NetworkPolicy{Mode: ptr.To(v1alpha1.NetworkPolicyManaged), From: []networkingv1.NetworkPolicyPeer{
		{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "backup"}}}}}
	w.changeNetworkPolicy(backup)
	w.peers(1)

	// What somebody else writes is corrected.
	p = w.peers(1)
	p.Spec.Ingress[0].From = nil
	if err := kube.Update(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	w.peers(1)
	w.remove(p)
	w.peers(1)

	w.changeNetworkPolicy(v1alpha1.NetworkPolicy{Mode: ptr.To(v1alpha1.NetworkPolicyNone)})
	w.gone(p)
	w.changeNetworkPolicy(backup)
	w.peers(1)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	same(t, pod)
}

// TestForeignNetworkPolicy finds a NetworkPolicy of somebody else under its name and
// leaves it alone, and needs none to serve if it is told so.
func TestForeignNetworkPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	foreign := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "nbd-e"}}
	w.must(foreign)
	w.user("vm", "node-1", "")
	w.export("e", untilVMGone)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonNameTaken)
	says(t, message(e, v1alpha1.ConditionReady), "NetworkPolicy nbd-e")
	w.noPod()
	w.changeNetworkPolicy(v1alpha1.NetworkPolicy{Mode: ptr.To(v1alpha1.NetworkPolicyNone)})
	w.pod("nbd-e", nil)
	untouched(t, foreign, &networkingv1.NetworkPolicy{})
}

// TestPodsAreProtected makes no pod whose NetworkPolicy the API server refuses.
func TestPodsAreProtected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.export("e", `
volumes: [{name: disk, source: {memory: {size: 1Mi}}}]
networkPolicy: {from: [{ipBlock: {cidr: 10.0.0.0}}]}
tls: {mode: Disabled}`)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonPodRejected)
	says(t, message(e, v1alpha1.ConditionReady), "refuses the NetworkPolicy", "spec.ingress[0].from[0].ipBlock.cidr")
	w.noPod()
	w.changeNetworkPolicy(v1alpha1.NetworkPolicy{Mode: ptr.To(v1alpha1.NetworkPolicyManaged)})
	w.pod("nbd-e", nil)
}
