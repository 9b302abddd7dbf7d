package controllers

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

func fullPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "p", UID: "1", Annotations: map[string]string{"a": "b"}, Labels: map[string]string{"app": "vm"},
			ManagedFields: []metav1.ManagedFieldsEntry{{}}, Finalizers: []string{"f"}},
		Spec: corev1.PodSpec{
			NodeName:    "node-7",
			Containers:  []corev1.Container{{Env: []corev1.EnvVar{{Name: "PASSWORD", Value: "secret"}}}},
			Tolerations: []corev1.Toleration{{Key: "k"}},
			Volumes: []corev1.Volume{
				{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}},
				{Name: "disk", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "disk"}}},
				{Name: "tmp", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
			},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "c"}}},
	}
}

func TestTrimPod(t *testing.T) {
	out, err := trimPod(fullPod())
	if err != nil {
		t.Fatal(err)
	}
	p := out.(*corev1.Pod)
	if len(p.Spec.Containers) != 0 || p.ManagedFields != nil || p.Annotations != nil || len(p.Status.ContainerStatuses) != 0 {
		t.Errorf("something is kept that nobody looks at: %+v", p)
	}
	if p.Spec.NodeName != "node-7" || len(p.Spec.Tolerations) != 1 || p.Status.Phase != corev1.PodRunning || len(p.Finalizers) != 1 || p.Labels["app"] != "vm" {
		t.Errorf("something is lost: %+v", p)
	}
	if got := claimsOfPod(p); len(got) != 2 || got[0] != "disk" || got[1] != "p-tmp" {
		t.Errorf("claims: %v", got)
	}

	other := fullPod()
	other.Spec.Volumes = other.Spec.Volumes[:1]
	if _, err := trimPod(other); err != nil || len(other.Spec.Volumes) != 0 || len(other.Spec.Tolerations) != 0 {
		t.Errorf("a pod without claims: %+v, %v", other, err)
	}

	ours := fullPod()
	ours.Labels[v1alpha1.LabelExport] = "e"
	ours.Annotations[v1alpha1.AnnotationExport] = "e"
	ours.Annotations[v1alpha1.AnnotationNode] = "node-7"
	ours.Annotations[v1alpha1.AnnotationSpec] = "generation=1"
	if _, err := trimPod(ours); err != nil {
		t.Fatal(err)
	}
	if len(ours.Status.ContainerStatuses) != 1 || len(ours.Spec.Containers) != 0 || len(ours.Annotations) != 3 ||
		ours.Annotations[v1alpha1.AnnotationSpec] != "generation=1" || ours.Annotations[v1alpha1.AnnotationExport] != "e" || pinnedTo(ours) != "node-7" {
		t.Errorf("a pod of ours: %+v", ours)
	}
}

func TestTrimSecret(t *testing.T) {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Labels: map[string]string{v1alpha1.LabelTLS: "client"},
		Annotations: map[string]string{"a": "b"}, ManagedFields: []metav1.ManagedFieldsEntry{{}}}, Data: map[string][]byte{"k": nil}}
	if _, err := trimSecret(s); err != nil {
		t.Fatal(err)
	}
	if s.Annotations != nil || s.ManagedFields != nil || len(s.Labels) != 1 || len(s.Data) != 1 {
		t.Errorf("%+v", s)
	}
}
