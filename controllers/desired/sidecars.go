package desired

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// sidecars are the template's containers as init containers that go on running.
// The pod succeeds when the server ends, whatever they do.
func sidecars(containers []corev1.Container) ([]*corev1ac.ContainerApplyConfiguration, error) {
	var out []*corev1ac.ContainerApplyConfiguration
	for _, c := range containers {
		ac, err := convert[corev1ac.ContainerApplyConfiguration](c)
		if err != nil {
			return nil, fmt.Errorf("spec.template.containers: %s: %w", c.Name, err)
		}
		ac.WithRestartPolicy(corev1.ContainerRestartPolicyAlways)
		if c.SecurityContext == nil {
			ac.WithSecurityContext(restricted())
		}
		if !mounts(c, v1alpha1.RunDir) {
			ac.WithVolumeMounts(runMount())
		}
		out = append(out, ac)
	}
	return out, nil
}

func mounts(c corev1.Container, path string) bool {
	for _, m := range c.VolumeMounts {
		if m.MountPath == path {
			return true
		}
	}
	return false
}

// convert turns a type of the API into the type of its apply configuration:
// both have the same JSON.
func convert[To any](from any) (*To, error) {
	b, err := json.Marshal(from)
	if err != nil {
		return nil, err
	}
	to := new(To)
	return to, json.Unmarshal(b, to)
}
