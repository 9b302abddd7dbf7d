package desired

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestService(t *testing.T) {
	for _, name := range exports(t) {
		t.Run(name, func(t *testing.T) {
			golden(t, name+".service", Service(export(t, name)))
		})
	}
}

func TestServiceMatches(t *testing.T) {
	e := export(t, "everything")
	fresh := func() *corev1.Service {
		b, err := json.Marshal(Service(e))
		if err != nil {
			t.Fatal(err)
		}
		s := &corev1.Service{}
		if err := json.Unmarshal(b, s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	if !ServiceMatches(e, fresh()) {
		t.Error("a new Service doesn't match")
	}
	for name, change := range map[string]func(*corev1.Service){
		"label":       func(s *corev1.Service) { delete(s.Labels, "app.kubernetes.io/name") },
		"annotation":  func(s *corev1.Service) { delete(s.Annotations, "example.test/address-pool") },
		"type":        func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort },
		"selector":    func(s *corev1.Service) { s.Spec.Selector["a"] = "b" },
		"port":        func(s *corev1.Service) { s.Spec.Ports[0].Port = 1 },
		"target port": func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(1) },
		"no port":     func(s *corev1.Service) { s.Spec.Ports = nil },
	} {
		s := fresh()
		change(s)
		if ServiceMatches(e, s) {
			t.Errorf("%s: the change isn't noticed", name)
		}
	}
	s := fresh()
	s.Labels["team"], s.Annotations["team"] = "storage", "storage"
	if !ServiceMatches(e, s) {
		t.Error("somebody else's label isn't tolerated")
	}
}
