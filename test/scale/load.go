package main

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// namespaces is over how many the exports are spread.
const namespaces = 10

//go:embed export.yaml
var exportYAML string

// load is what there is to be served, and what else is there.
type load struct {
	kube    client.Client
	exports int
	// others is the number of pods that have nothing to do with exports.
	others int
	nodes  int
}

func exportNames(from, to int) (keys []client.ObjectKey) {
	for i := from; i < to; i++ {
		keys = append(keys, client.ObjectKey{Namespace: fmt.Sprintf("scale-%d", i%namespaces), Name: fmt.Sprintf("x%05d", i)})
	}
	return keys
}

// inParallel does something for many, 32 at a time, until one fails.
func inParallel[T any](ctx context.Context, list []T, do func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	workqueue.ParallelizeUntil(ctx, 32, len(list), func(i int) {
		if err := do(ctx, list[i]); err != nil {
			cancel(err)
		}
	})
	return context.Cause(ctx)
}

// prepare makes all but the exports: for each a VM's pod with a claim that is bound,
// and pods of others.
func (l *load) prepare(ctx context.Context) error {
	for i := range namespaces {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("scale-%d", i)}}
		if err := l.kube.Create(ctx, ns); err != nil {
			return err
		}
	}
	if err := inParallel(ctx, exportNames(0, l.exports), l.makeVM); err != nil {
		return err
	}
	var others []int
	for i := range l.others {
		others = append(others, i)
	}
	return inParallel(ctx, others, l.makeOther)
}

// makeVM makes a pod with a claim on a volume.
func (l *load) makeVM(ctx context.Context, key client.ObjectKey) error {
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: "disk-" + key.Name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes:      modes,
			VolumeName:       "pv-" + key.Name,
			StorageClassName: ptr.To(""),
			Resources:        corev1.VolumeResourceRequirements{Requests: size},
		},
	}
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv-" + key.Name},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: modes,
			Capacity:    size,
			ClaimRef:    &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name},
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi.example.test", VolumeHandle: key.Name}},
		},
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: "vm-" + key.Name, Labels: map[string]string{"app": "vm"}},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "compute", Image: "example.test/vm"}},
			Volumes: []corev1.Volume{{Name: "disk", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name}}}},
		},
	}
	for _, obj := range []client.Object{volume, claim, pod} {
		if err := l.kube.Create(ctx, obj); err != nil {
			return err
		}
	}
	base := claim.DeepCopy()
	claim.Status.Phase, claim.Status.AccessModes, claim.Status.Capacity = corev1.ClaimBound, modes, size
	return l.kube.Status().Patch(ctx, claim, client.MergeFrom(base))
}

// makeOther makes a pod like many others: a few containers, with a lot to say about
// each.
func (l *load) makeOther(ctx context.Context, i int) error {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   fmt.Sprintf("scale-%d", i%namespaces),
			Name:        fmt.Sprintf("other-%05d", i),
			Labels:      map[string]string{"app.kubernetes.io/name": "other", "app.kubernetes.io/instance": fmt.Sprint(i), "pod-template-hash": "5d4f8c7b9"},
			Annotations: map[string]string{"example.test/config": strings.Repeat("something that somebody needs ", 30)},
		},
		Spec: corev1.PodSpec{NodeName: nodeName(i % l.nodes)},
	}
	for c := range 3 {
		container := corev1.Container{Name: fmt.Sprintf("c%d", c), Image: fmt.Sprintf("registry.example.test/other/c%d:v1", c)}
		for e := range 20 {
			container.Env = append(container.Env, corev1.EnvVar{Name: fmt.Sprintf("VARIABLE_%d", e), Value: strings.Repeat("v", 40)})
		}
		pod.Spec.Containers = append(pod.Spec.Containers, container)
	}
	return l.kube.Create(ctx, pod)
}

// makeExport makes one of the exports.
func (l *load) makeExport(ctx context.Context, key client.ObjectKey) error {
	var e v1alpha1.NBDExport
	if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(exportYAML, "NAME", key.Name)), &e); err != nil {
		return fmt.Errorf("export.yaml: %w", err)
	}
	e.Namespace = key.Namespace
	return l.kube.Create(ctx, &e)
}

// removeVM deletes the pod that an export waits for.
func (l *load) removeVM(ctx context.Context, key client.ObjectKey) error {
	return l.kube.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: "vm-" + key.Name}})
}

// removeExport deletes an export.
func (l *load) removeExport(ctx context.Context, key client.ObjectKey) error {
	return l.kube.Delete(ctx, &v1alpha1.NBDExport{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}})
}

// collect is the garbage collector's part: it deletes what was made for an export
// that doesn't exist any more.
func (l *load) collect(ctx context.Context, key client.ObjectKey) error {
	for _, list := range []client.ObjectList{
		&corev1.ServiceList{}, &corev1.ConfigMapList{}, &corev1.SecretList{}, &networkingv1.NetworkPolicyList{},
	} {
		err := l.kube.List(ctx, list, client.InNamespace(key.Namespace), client.MatchingLabels{v1alpha1.LabelExport: key.Name})
		if err != nil {
			return err
		}
		err = meta.EachListItem(list, func(obj runtime.Object) error {
			return client.IgnoreNotFound(l.kube.Delete(ctx, obj.(client.Object)))
		})
		if err != nil {
			return err
		}
	}
	return nil
}
