package v1alpha1

import (
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// The methods below read optional fields, of structs that are absent too: what isn't set
// is what the field's comment says. The API server fills in the defaults of its schema,
// which may be that of an older version.

// GetStatus is the status, an empty one before the operator has written any.
func (e *NBDExport) GetStatus() NBDExportStatus { return ptr.Deref(e.Status, NBDExportStatus{}) }

// GetPollSeconds is pollSeconds, in seconds.
func (s *NBDExportSpec) GetPollSeconds() int32 { return ptr.Deref(s.PollSeconds, 60) }

// GetTemplate is the template, an empty one where there is none.
func (s *NBDExportSpec) GetTemplate() PodTemplate { return ptr.Deref(s.Template, PodTemplate{}) }

// GetAccess is what clients may do.
func (v Volume) GetAccess() Access { return ptr.Deref(v.Access, ReadOnly) }

// GetFormat is how the bytes lie.
func (v Volume) GetFormat() Format { return ptr.Deref(v.Format, Raw) }

// GetSizeLimit is sizeLimit in bytes; zero where there is no scratch.
func (s *Scratch) GetSizeLimit() resource.Quantity {
	if s == nil {
		return resource.Quantity{}
	}
	return ptr.Deref(s.SizeLimit, resource.Quantity{})
}

// GetSize is size in bytes.
func (m MemorySource) GetSize() resource.Quantity { return ptr.Deref(m.Size, resource.Quantity{}) }

// GetTimeoutSeconds is timeoutSeconds, in seconds.
func (d *Drain) GetTimeoutSeconds() int32 {
	if d == nil {
		d = &Drain{}
	}
	return ptr.Deref(d.TimeoutSeconds, 600)
}

// GetPolicy is what becomes of clients when the grace is over.
func (d *Drain) GetPolicy() DrainPolicy {
	if d == nil {
		d = &Drain{}
	}
	return ptr.Deref(d.Policy, DrainRefuse)
}

// GetClientAuth is whether clients have to show a certificate, where TLS is enabled.
func (t *TLS) GetClientAuth() ClientAuth {
	if t == nil {
		t = &TLS{}
	}
	return ptr.Deref(t.ClientAuth, ClientAuthRequired)
}

// GetSecretRef is the Secret of the user's; nil where the certificates are the operator's.
func (t *TLS) GetSecretRef() *TLSSecretReference {
	if t == nil {
		return nil
	}
	return t.SecretRef
}

// GetType is from where the Service can be reached.
func (s *Service) GetType() ServiceType {
	if s == nil {
		s = &Service{}
	}
	return ptr.Deref(s.Type, ServiceClusterIP)
}

// GetPort is the port of the Service.
func (s *Service) GetPort() int32 {
	if s == nil {
		s = &Service{}
	}
	return ptr.Deref(s.Port, DefaultPort)
}

// GetAnnotations are the annotations of the Service.
func (s *Service) GetAnnotations() map[string]AnnotationValue {
	if s == nil {
		return nil
	}
	return s.Annotations
}

// GetMode is whether a NetworkPolicy is made.
func (p *NetworkPolicy) GetMode() NetworkPolicyMode {
	if p == nil {
		p = &NetworkPolicy{}
	}
	return ptr.Deref(p.Mode, NetworkPolicyManaged)
}

// GetFrom are the peers that reach the NBD port; none is everybody.
func (p *NetworkPolicy) GetFrom() []networkingv1.NetworkPolicyPeer {
	if p == nil {
		return nil
	}
	return p.From
}

// GetName is the name of the pod; empty where there is a selector instead.
func (p PodDeleted) GetName() string { return ptr.Deref(p.Name, "") }

// GetStatus is the status that the condition must have.
func (c ObjectCondition) GetStatus() metav1.ConditionStatus {
	return ptr.Deref(c.Status, metav1.ConditionTrue)
}

// GetGraceSeconds is graceSeconds, in seconds.
func (l LastClientLeft) GetGraceSeconds() int32 { return ptr.Deref(l.GraceSeconds, 0) }

// GetTimeoutSeconds is timeoutSeconds, in seconds.
func (s Script) GetTimeoutSeconds() int32 { return ptr.Deref(s.TimeoutSeconds, 30) }
