package desired

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// Service is how clients reach the pod of an export.
//
// It leads to the pod from the moment at which the pod has an address, ready or
// not: the nodes learn of that a second or so before the server is ready, and
// so a client that waits for Ready gets through. Nobody is let in who shouldn't
// be: before the server serves, and from the first moment of its drain, it
// refuses connections itself.
func Service(e *v1alpha1.NBDExport) *corev1ac.ServiceApplyConfiguration {
	return corev1ac.Service(ChildName(e.Name), e.Namespace).
		WithLabels(Labels(e.Name)).
		WithAnnotations(stringsOf(e.Spec.Service.Annotations)).
		WithOwnerReferences(owner(e)).
		WithSpec(corev1ac.ServiceSpec().
			WithType(serviceType(e)).
			WithSelector(selector(e.Name)).
			WithPublishNotReadyAddresses(true).
			WithPorts(corev1ac.ServicePort().
				WithName("nbd").
				WithProtocol(corev1.ProtocolTCP).
				WithPort(e.Spec.Service.Port).
				WithTargetPort(intstr.FromInt32(NBDPort))))
}

// ServiceMatches tells whether a Service is as Service would make it, so that
// nothing has to be applied.
func ServiceMatches(e *v1alpha1.NBDExport, s *corev1.Service) bool {
	for k, v := range Labels(e.Name) {
		if s.Labels[k] != v {
			return false
		}
	}
	for k, v := range e.Spec.Service.Annotations {
		if s.Annotations[k] != string(v) {
			return false
		}
	}
	if s.Spec.Type != serviceType(e) || !s.Spec.PublishNotReadyAddresses || len(s.Spec.Ports) != 1 || !maps.Equal(s.Spec.Selector, selector(e.Name)) {
		return false
	}
	p := s.Spec.Ports[0]
	return p.Name == "nbd" && p.Protocol == corev1.ProtocolTCP &&
		p.Port == e.Spec.Service.Port && p.TargetPort == intstr.FromInt32(NBDPort)
}

// serviceType is the type of the Service; the names are Kubernetes' own.
func serviceType(e *v1alpha1.NBDExport) corev1.ServiceType {
	return corev1.ServiceType(e.Spec.Service.Type)
}
