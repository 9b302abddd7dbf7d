package desired

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	networkingv1ac "k8s.io/client-go/applyconfigurations/networking/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// NetworkPolicy is what reaches the pod of an export, and what the pod reaches:
// nothing, unless there are other containers in it, of whose needs nobody knows
// here. Answers to what came in are always let out. The error is about the peers.
//
// The limits' CIDRs aren't in it: the server itself holds them, also where a
// network plugin doesn't see the addresses that it does.
func NetworkPolicy(e *v1alpha1.NBDExport) (*networkingv1ac.NetworkPolicyApplyConfiguration, error) {
	clients := networkingv1ac.NetworkPolicyIngressRule().WithPorts(tcp(NBDPort))
	for i, peer := range e.Spec.NetworkPolicy.GetFrom() {
		ac, err := convert[networkingv1ac.NetworkPolicyPeerApplyConfiguration](peer)
		if err != nil {
			return nil, fmt.Errorf("spec.networkPolicy.from[%d]: %w", i, err)
		}
		clients.WithFrom(ac)
	}
	spec := networkingv1ac.NetworkPolicySpec().
		WithPodSelector(metav1ac.LabelSelector().WithMatchLabels(selector(e.Name))).
		WithPolicyTypes(policyTypes(e)...).
		WithIngress(clients, networkingv1ac.NetworkPolicyIngressRule().WithPorts(tcp(HTTPPort)))
	return networkingv1ac.NetworkPolicy(ChildName(e.Name), e.Namespace).
		WithLabels(Labels(e.Name)).
		WithOwnerReferences(owner(e)).
		WithSpec(spec), nil
}

func tcp(port int32) *networkingv1ac.NetworkPolicyPortApplyConfiguration {
	return networkingv1ac.NetworkPolicyPort().WithProtocol(corev1.ProtocolTCP).WithPort(intstr.FromInt32(port))
}

func policyTypes(e *v1alpha1.NBDExport) []networkingv1.PolicyType {
	if len(e.Spec.GetTemplate().Containers) > 0 {
		return []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	}
	return []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
}

// NetworkPolicyMatches tells whether a NetworkPolicy is as NetworkPolicy would make
// it, so that nothing has to be applied.
func NetworkPolicyMatches(e *v1alpha1.NBDExport, p *networkingv1.NetworkPolicy) bool {
	for k, v := range Labels(e.Name) {
		if p.Labels[k] != v {
			return false
		}
	}
	ac, err := NetworkPolicy(e)
	if err != nil {
		return false
	}
	want, err := convert[networkingv1.NetworkPolicySpec](ac.Spec)
	return err == nil && equality.Semantic.DeepEqual(*want, p.Spec)
}
