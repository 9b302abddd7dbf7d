package controllers

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestNeverServed ends an export whose pod is over without a report. Only what
// can't have served ends as one that never started.
func TestNeverServed(t *testing.T) {
	unknown := corev1.ContainerStatus{State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown"}}}
	// failed is a pod whose server ended with an error at its last two starts.
	failed := func(p *corev1.Pod) {
		over(p, 1, "nbdserver: disk.img: no such file")
		s := &p.Status.ContainerStatuses[0]
		s.RestartCount, s.LastTerminationState = 4, terminated(1, "nbdserver: disk.img: no such file").State
	}
	for _, c := range []struct {
		name string
		pod  func(*corev1.Pod)
		want string
	}{
		{"never scheduled", func(p *corev1.Pod) { p.Spec.NodeName, p.Status = "", corev1.PodStatus{} }, v1alpha1.ReasonNeverStarted},
		{"no container made", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, v1alpha1.ReasonNeverStarted},
		{"evicted, nothing is known", func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodFailed} }, v1alpha1.ReasonReportLost},
		{"image never pulled", func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodFailed
			server(p, corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}})
		}, v1alpha1.ReasonNeverStarted},
		{"image never pulled, in the kubelet's last words", func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodFailed
			server(p, unknown)
		}, v1alpha1.ReasonNeverStarted},
		{"lost while it ran", func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodFailed
			server(p, unknown)
			p.Status.ContainerStatuses[0].RestartCount = 1
		}, v1alpha1.ReasonReportLost},
		{"lost while it ran, at its deletion", func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodFailed
			server(p, unknown)
			p.Status.ContainerStatuses[0].LastTerminationState = unknown.State
		}, v1alpha1.ReasonReportLost},
		{"failed at each start", failed, v1alpha1.ReasonNeverStarted},
		{"failed at each start, was ready before", func(p *corev1.Pod) {
			failed(p)
			p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(noon.Add(-time.Minute))
		}, v1alpha1.ReasonServerKilled},
		{"failed at each start, may have been ready", func(p *corev1.Pod) { failed(p); p.Status.Conditions = nil }, v1alpha1.ReasonServerKilled},
		{"failed at each start, no start known", func(p *corev1.Pod) { failed(p); p.Status.StartTime = nil }, v1alpha1.ReasonServerKilled},
		{"failed, and was killed the time before", func(p *corev1.Pod) {
			failed(p)
			p.Status.ContainerStatuses[0].LastTerminationState.Terminated.ExitCode = 137
		}, v1alpha1.ReasonServerKilled},
		{"killed", func(p *corev1.Pod) { over(p, 137, "") }, v1alpha1.ReasonServerKilled},
		{"ended with 0 and no report", func(p *corev1.Pod) { over(p, 0, "") }, v1alpha1.ReasonReportLost},
		{"by force while it ran", func(p *corev1.Pod) {
			server(p, corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
		}, v1alpha1.ReasonReportLost},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := scene()
			pod := withPod(o)
			start := metav1.NewTime(noon.Add(-time.Hour))
			pod.Status.StartTime = &start
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: start}}
			deleted(pod)
			pod.DeletionGracePeriodSeconds = ptr.To[int64](0)
			o.now = noon.Add(time.Hour)
			c.pod(pod)
			o.export.Status.Exit = &v1alpha1.ExitStatus{Condition: "vm-gone", Reason: v1alpha1.ExitPodDeleted}

			p := decide(o)
			got, message := said(p, v1alpha1.ConditionComplete)
			if got != "True "+c.want {
				t.Fatalf("%s: %s, want %s", got, message, c.want)
			}
			if clean := p.exit.Clean != nil && *p.exit.Clean; clean != (c.want == v1alpha1.ReasonNeverStarted) {
				t.Errorf("clean is %v", clean)
			}
			// What an earlier pod has served, nobody knows.
			o.export.Status.FirstReadyAt = &start
			if p := decide(o); p.exit.Clean != nil && *p.exit.Clean {
				t.Error("clean although the export had been ready")
			}
		})
	}
}
