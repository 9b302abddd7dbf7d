package desired

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestScratchRequest asks for the node's disk beside what the template asks for, and
// not where the template says how much of it there is to be.
func TestScratchRequest(t *testing.T) {
	list := func(name corev1.ResourceName, q string) corev1.ResourceList {
		return corev1.ResourceList{name: resource.MustParse(q)}
	}
	for _, c := range []struct {
		name     string
		template *corev1.ResourceRequirements
		want     string
	}{
		{"nothing said", nil, "12058688Ki"},
		{"other requests", &corev1.ResourceRequirements{Requests: list(corev1.ResourceCPU, "2")}, "12058688Ki"},
		{"other limits", &corev1.ResourceRequirements{Limits: list(corev1.ResourceMemory, "1Gi")}, "12058688Ki"},
		{"a request", &corev1.ResourceRequirements{Requests: list(corev1.ResourceEphemeralStorage, "1Gi")}, "1Gi"},
		{"a limit, which is the request too", &corev1.ResourceRequirements{Limits: list(corev1.ResourceEphemeralStorage, "1Gi")}, "0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := export(t, "golden-image")
			e.Spec.Template = &v1alpha1.PodTemplate{Resources: c.template}
			pod, err := Pod(e, facts)
			if err != nil {
				t.Fatal(err)
			}
			var got corev1.ResourceList
			if r := pod.Spec.Containers[0].Resources.Requests; r != nil {
				got = *r
			}
			if storage := got[corev1.ResourceEphemeralStorage]; storage.Cmp(resource.MustParse(c.want)) != 0 {
				t.Errorf("the request is %s, want %s", storage.String(), c.want)
			}
			if c.template != nil && c.template.Requests.Cpu().Cmp(*got.Cpu()) != 0 {
				t.Errorf("the template's request is lost: %v", got)
			}
		})
	}
}

// TestNoScratch: an export without a copy on write has neither scratch nor request, and
// is started again by the kubelet.
func TestNoScratch(t *testing.T) {
	pod, err := Pod(export(t, "everything"), facts)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range pod.Spec.Volumes {
		if *v.Name == scratchVolume {
			t.Errorf("%s is there", *v.Name)
		}
	}
	if *pod.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		t.Errorf("restartPolicy %s", *pod.Spec.RestartPolicy)
	}
	if e := export(t, "golden-image"); !CopiesOnWrite(e) || e.Spec.Volumes[3].GetAccess() != v1alpha1.ReadOnly {
		t.Errorf("%+v", e.Spec.Volumes)
	}
}
