package controllers

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// CacheOptions keep the operator's memory small. All pods of the cluster have to
// be watched, for any of them may end an export or hold its claim; what isn't
// looked at is thrown away. Of Services, ConfigMaps and NetworkPolicies only those
// made for exports are kept: whether another one has the name is asked of the API server.
func CacheOptions() cache.Options {
	ours, err := labels.Parse(v1alpha1.LabelExport)
	if err != nil {
		panic(err) // the name of a label is a valid selector
	}
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:                   {Transform: trimPod},
			&corev1.PersistentVolumeClaim{}: {Transform: trimClaim},
			&corev1.Service{}:               {Label: ours},
			&corev1.ConfigMap{}:             {Label: ours},
			&networkingv1.NetworkPolicy{}:   {Label: ours},
		},
	}
}

// trimPod keeps of a pod what decide and the indexes look at.
func trimPod(in any) (any, error) {
	pod, ok := in.(*corev1.Pod)
	if !ok {
		return in, nil
	}
	pod.ManagedFields = nil
	annotations := pod.Annotations
	pod.Annotations = nil
	spec := corev1.PodSpec{
		NodeName:                      pod.Spec.NodeName,
		Tolerations:                   pod.Spec.Tolerations,
		TerminationGracePeriodSeconds: pod.Spec.TerminationGracePeriodSeconds,
	}
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			if v.Ephemeral != nil {
				v.Ephemeral = &corev1.EphemeralVolumeSource{}
			}
			spec.Volumes = append(spec.Volumes, v)
		}
	}
	if _, ours := pod.Labels[v1alpha1.LabelExport]; ours {
		maps.DeleteFunc(annotations, func(key, _ string) bool {
			return key != v1alpha1.AnnotationExport && key != v1alpha1.AnnotationNode && key != v1alpha1.AnnotationSpec
		})
		pod.Annotations = annotations
	} else {
		pod.Status = corev1.PodStatus{Phase: pod.Status.Phase}
	}
	pod.Spec = spec
	return pod, nil
}

// trimClaim keeps of a claim what decide looks at.
func trimClaim(in any) (any, error) {
	claim, ok := in.(*corev1.PersistentVolumeClaim)
	if !ok {
		return in, nil
	}
	claim.ManagedFields = nil
	claim.Annotations = nil
	claim.Labels = nil
	return claim, nil
}
