package desired

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

func TestNetworkPolicy(t *testing.T) {
	for _, name := range exports(t) {
		t.Run(name, func(t *testing.T) {
			p, err := NetworkPolicy(export(t, name))
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".networkpolicy", p)
		})
	}
}

func TestNetworkPolicyMatches(t *testing.T) {
	e := export(t, "everything")
	fresh := func() *networkingv1.NetworkPolicy {
		ac, err := NetworkPolicy(e)
		if err != nil {
			t.Fatal(err)
		}
		p, err := convert[networkingv1.NetworkPolicy](ac)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if !NetworkPolicyMatches(e, fresh()) {
		t.Error("a new NetworkPolicy doesn't match")
	}
	udp := corev1.ProtocolUDP
	for name, change := range map[string]func(*networkingv1.NetworkPolicy){
		"label":    func(p *networkingv1.NetworkPolicy) { delete(p.Labels, "app.kubernetes.io/name") },
		"pods":     func(p *networkingv1.NetworkPolicy) { p.Spec.PodSelector.MatchLabels = nil },
		"peers":    func(p *networkingv1.NetworkPolicy) { p.Spec.Ingress[0].From = nil },
		"ports":    func(p *networkingv1.NetworkPolicy) { p.Spec.Ingress[0].Ports = nil },
		"protocol": func(p *networkingv1.NetworkPolicy) { p.Spec.Ingress[1].Ports[0].Protocol = &udp },
		"one more": func(p *networkingv1.NetworkPolicy) {
			p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{})
		},
		"direction": func(p *networkingv1.NetworkPolicy) { p.Spec.PolicyTypes = nil },
	} {
		p := fresh()
		change(p)
		if NetworkPolicyMatches(e, p) {
			t.Errorf("%s: the change isn't noticed", name)
		}
	}
	p := fresh()
	p.Labels["team"] = "storage"
	if !NetworkPolicyMatches(e, p) {
		t.Error("somebody else's label isn't tolerated")
	}
}
