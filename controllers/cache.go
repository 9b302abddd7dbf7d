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
// looked at is thrown away. Of Services, ConfigMaps, NetworkPolicies and Secrets only
// those made for exports are kept: whether another one has the name is asked of the API
// server.
func CacheOptions() cache.Options {
	ours, secrets := labelled(v1alpha1.LabelExport), labelled(v1alpha1.LabelTLS)
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:                   {Transform: trimPod},
			&corev1.PersistentVolumeClaim{}: {Transform: trimClaim},
			&corev1.Service{}:               {Label: ours},
			&corev1.ConfigMap{}:             {Label: ours},
			&networkingv1.NetworkPolicy{}:   {Label: ours},
			&corev1.Secret{}:                {Label: secrets, Transform: trimSecret},
		},
	}
}

// labelled selects what has a label.
func labelled(name string) labels.Selector {
	s, err := labels.Parse(name)
	if err != nil {
		panic(err) // the name of a label is a valid selector
	}
	return s
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
	if len(spec.Volumes) > 0 {
		// Whoever follows the claims to the pod's node tolerates it too.
		spec.Tolerations = pod.Spec.Tolerations
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
	claim.Spec.Resources = corev1.VolumeResourceRequirements{}
	return claim, nil
}

// trimSecret keeps of a Secret what decide looks at.
func trimSecret(in any) (any, error) {
	s, ok := in.(*corev1.Secret)
	if !ok {
		return in, nil
	}
	s.ManagedFields = nil
	s.Annotations = nil
	return s, nil
}
