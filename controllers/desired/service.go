package desired

import (
	"maps"
	"slices"
	"strings"

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
		WithAnnotations(serviceAnnotations(e)).
		WithOwnerReferences(owner(e)).
		WithSpec(corev1ac.ServiceSpec().
			WithType(serviceType(e)).
			WithSelector(selector(e.Name)).
			WithPublishNotReadyAddresses(true).
			WithPorts(corev1ac.ServicePort().
				WithName("nbd").
				WithProtocol(corev1.ProtocolTCP).
				WithPort(e.Spec.Service.GetPort()).
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
	annotations := serviceAnnotations(e)
	for k, v := range annotations {
		if s.Annotations[k] != v {
			return false
		}
	}
	if s.Annotations[v1alpha1.AnnotationKeys] != annotations[v1alpha1.AnnotationKeys] {
		return false
	}
	if s.Spec.Type != serviceType(e) || !s.Spec.PublishNotReadyAddresses || len(s.Spec.Ports) != 1 || !maps.Equal(s.Spec.Selector, selector(e.Name)) {
		return false
	}
	p := s.Spec.Ports[0]
	return p.Name == "nbd" && p.Protocol == corev1.ProtocolTCP &&
		p.Port == e.Spec.Service.GetPort() && p.TargetPort == intstr.FromInt32(NBDPort)
}

// serviceAnnotations are those of the export, and a list of them.
func serviceAnnotations(e *v1alpha1.NBDExport) map[string]string {
	out := stringsOf(e.Spec.Service.GetAnnotations())
	if len(out) > 0 {
		out[v1alpha1.AnnotationKeys] = strings.Join(slices.Sorted(maps.Keys(e.Spec.Service.GetAnnotations())), ",")
	}
	return out
}

// serviceType is the type of the Service; the names are Kubernetes' own.
func serviceType(e *v1alpha1.NBDExport) corev1.ServiceType {
	return corev1.ServiceType(e.Spec.Service.GetType())
}
