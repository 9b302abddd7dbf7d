package controllers

import (
	"encoding/json"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
	"github.com/nbdexport/nbdexport/nbdserver/report"
)

// noon is when the decisions in these tests are made.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// scene is an export of the claim "disk" that ends with the pod "vm" or the file
// "stop", with both there and nothing made for it.
func scene() *observed {
	e := &v1alpha1.NBDExport{
		ObjectMeta: metav1.ObjectMeta{Namespace: "vms", Name: "e", UID: "1", Generation: 1},
		Spec: v1alpha1.NBDExportSpec{
			Volumes: []v1alpha1.Volume{
				{Name: "disk", Source: v1alpha1.VolumeSource{PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "disk"}}},
				{Name: "scratch", Source: v1alpha1.VolumeSource{Memory: &v1alpha1.MemorySource{}}},
			},
			ExitWhen: []v1alpha1.ExitCondition{
				{Name: "stop", FileCreated: &v1alpha1.FileCondition{Path: "/run/nbdexport/stop"}},
				{Name: "asked", Script: &v1alpha1.Script{Command: []string{"/x", "-y"}, TimeoutSeconds: ptr.To[int32](30)}},
				{Name: "vm-gone", PodDeleted: &v1alpha1.PodDeleted{Name: ptr.To("vm")}},
			},
			Drain:   &v1alpha1.Drain{TimeoutSeconds: ptr.To[int32](60)},
			Service: &v1alpha1.Service{Port: ptr.To[int32](10809)},
			TLS:     &v1alpha1.TLS{Mode: ptr.To(v1alpha1.TLSDisabled), ClientAuth: ptr.To(v1alpha1.ClientAuthRequired)},
		},
	}
	vm := userPod("vm", "node-7")
	vm.UID = "9"
	e.CreationTimestamp = metav1.NewTime(noon)
	e.Status = &v1alpha1.NBDExportStatus{WatchedPods: []v1alpha1.WatchedPod{{Name: "vm-gone", UID: string(vm.UID), PodName: ptr.To("vm")}}}
	return &observed{
		export: e,
		claims: map[string]*corev1.PersistentVolumeClaim{"disk": {
			ObjectMeta: metav1.ObjectMeta{Name: "disk"},
			Spec:       corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, VolumeName: "pv-1"},
			Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
		}},
		users:   map[string][]corev1.Pod{},
		targets: map[string]*corev1.Pod{"vm": vm},
		now:     noon,
	}
}

// another is another export of the claim "disk".
func another(name string, access v1alpha1.Access, made time.Time) v1alpha1.NBDExport {
	return v1alpha1.NBDExport{
		ObjectMeta: metav1.ObjectMeta{Namespace: "vms", Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(made)},
		Spec: v1alpha1.NBDExportSpec{Volumes: []v1alpha1.Volume{{Name: "x", Access: ptr.To(access),
			Source: v1alpha1.VolumeSource{PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "disk"}}}}},
		Status: &v1alpha1.NBDExportStatus{},
	}
}

// podOf is the pod of another export, which uses the claim "disk".
func podOf(e v1alpha1.NBDExport, node string) *corev1.Pod {
	pod := userPod("nbd-"+e.Name, node)
	pod.Labels = map[string]string{v1alpha1.LabelExport: e.Name}
	pod.CreationTimestamp = e.CreationTimestamp
	ref := ownerRef(e.UID)
	ref.Name = e.Name
	pod.OwnerReferences = []metav1.OwnerReference{ref}
	return pod
}

// userPod is a pod of somebody else, on a node if one is named.
func userPod(name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "vms", Name: name},
		Spec:       corev1.PodSpec{NodeName: node},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

// withPod gives the export its pod, on a node and without any status.
func withPod(o *observed) *corev1.Pod {
	o.pod = &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "vms", Name: "nbd-e", UID: "2",
			Finalizers:      []string{v1alpha1.FinalizerReport},
			OwnerReferences: []metav1.OwnerReference{ownerRef(o.export.UID)},
			Annotations:     map[string]string{v1alpha1.AnnotationSpec: desired.Stamp(o.export)},
		},
		Spec: corev1.PodSpec{NodeName: "node-7", TerminationGracePeriodSeconds: ptr.To[int64](75)},
	}
	return o.pod
}

// withOrphan gives the export its pod, whose owner isn't on record any more.
func withOrphan(o *observed) *corev1.Pod {
	withPod(o).OwnerReferences = nil
	o.pod.Labels = desired.Labels("e")
	return o.pod
}

func ownerRef(uid types.UID) metav1.OwnerReference {
	return metav1.OwnerReference{
		APIVersion: "nbdexport.io/v1alpha1", Kind: "NBDExport", Name: "e", UID: uid, Controller: ptr.To(true)}
}

// deleted marks a pod as told to end at noon.
func deleted(pod *corev1.Pod) {
	at := metav1.NewTime(noon)
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &at, ptr.To[int64](75)
}

// server gives the pod's server a state.
func server(pod *corev1.Pod, s corev1.ContainerStatus) {
	s.Name = "nbdserver"
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{s}
}

// runsSince has the pod's server run.
func runsSince(pod *corev1.Pod, started time.Time) {
	server(pod, corev1.ContainerStatus{State: corev1.ContainerState{
		Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(started)}}})
}

// over ends the pod's server with an exit code and a termination message.
func over(pod *corev1.Pod, code int, text string) {
	pod.Status.Phase = corev1.PodSucceeded
	if code != 0 {
		pod.Status.Phase = corev1.PodFailed
	}
	server(pod, terminated(code, text))
}

func terminated(code int, text string) corev1.ContainerStatus {
	return corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: int32(code), Message: text, FinishedAt: metav1.NewTime(noon)}}}
}

// reportOf is a report as the server writes it.
func reportOf(t *testing.T, condition string, code int) string {
	t.Helper()
	b, err := json.Marshal(report.Report{Condition: condition, StartedAt: noon.Add(-time.Minute), FinishedAt: noon,
		ExitCode: code, ClientsCut: 2, BytesRead: 1 << 40, BytesWritten: 7})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// said is what a plan says about a condition, as "True Reason".
func said(p plan, kind string) (string, string) {
	for i := len(p.say) - 1; i >= 0; i-- {
		if v := p.say[i]; v.kind == kind {
			status := "False "
			if v.is {
				status = "True "
			}
			return status + v.reason, v.message
		}
	}
	return "", ""
}
