package controllers

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
	"github.com/nbdexport/nbdexport/nbdserver/report"
)

// podChecks judge a pod of the export that is there and isn't going. The last one
// always finds something.
var podChecks = []check{serving, reported, notScheduled, heldUp, serverFailed, notReady, starting}

func serving(o *observed) (finding, bool) {
	c := podCondition(o.pod, corev1.PodReady)
	if (c == nil || c.Status != corev1.ConditionTrue) && !companionsOnly(o) {
		return finding{}, false
	}
	if f, trouble := firstOf([]check{invalidSelector, unwatchable, authorityDamaged, companionFailed}, o); trouble {
		// Nobody is cut off for that, but somebody has to know.
		return found(v1alpha1.ReasonServing, "clients can connect, but %s", f.message)
	}
	return found(v1alpha1.ReasonServing, "clients can connect")
}

// reported finds a server that has ended while other containers of the pod
// haven't.
func reported(o *observed) (finding, bool) {
	if !reportedEnd(o.pod) {
		return finding{}, false
	}
	return found(v1alpha1.ReasonDraining, "the server has drained and ended: the end of its pod follows")
}

// notScheduled says why no node takes the pod, in the words of the scheduler and,
// where that is the cause, of the claims.
func notScheduled(o *observed) (finding, bool) {
	c := podCondition(o.pod, corev1.PodScheduled)
	if o.pod.Spec.NodeName != "" || c == nil || c.Status != corev1.ConditionFalse {
		return finding{}, false
	}
	if f, found := firstOf(claimChecks, o); found {
		return f, true
	}
	for _, h := range o.holders() {
		return found(v1alpha1.ReasonVolumeInUse, "the pod %s on node %s holds the PersistentVolumeClaim %s, and the export's pod can't run there: %s", h.pod.Name, h.pod.Spec.NodeName, h.claim, brief(c.Message))
	}
	for _, name := range claimNames(o.export) {
		if claim := o.claims[name]; claim != nil && claim.Status.Phase == corev1.ClaimPending {
			return found(v1alpha1.ReasonClaimPending, "the PersistentVolumeClaim %s isn't bound to a volume, \"kubectl describe pvc %s\" says why: %s", name, name, brief(c.Message))
		}
	}
	if f, found := temporaryPending(o, c.Message); found {
		return f, true
	}
	return found(v1alpha1.ReasonUnschedulable, "no node takes the pod %s, of which spec.template says where it may run and what it needs: %s", o.pod.Name, brief(c.Message))
}

// companionsOnly tells whether a pod isn't ready for nothing but its extra containers: its
// server is, which is all that clients need, and its node is there to say so. Where it is
// only the pod that Kubernetes has marked, the node has yet to say what became of it.
func companionsOnly(o *observed) bool {
	c := podCondition(o.pod, corev1.ContainersReady)
	return cutOff(o.pod) && o.node.state == nodeReady && c != nil && c.Status == corev1.ConditionFalse
}

// companionFailed finds an extra container that doesn't run.
func companionFailed(o *observed) (finding, bool) {
	return stuckContainer(o.pod, o.pod.Status.InitContainerStatuses)
}

// heldUp finds what keeps the server from being started: an extra container, as long as
// the server waits for those, or its own.
func heldUp(o *observed) (finding, bool) {
	s := serverStatus(o.pod)
	if s == nil || s.State.Waiting != nil && s.State.Waiting.Reason == "PodInitializing" {
		if f, found := companionFailed(o); found {
			return f, true
		}
	}
	return stuckContainer(o.pod, o.pod.Status.ContainerStatuses)
}

// stuckContainer finds a container whose image the node can't get, which it can't make or
// start, or an extra one that keeps ending. What the server's ended with, serverFailed
// says.
func stuckContainer(pod *corev1.Pod, statuses []corev1.ContainerStatus) (finding, bool) {
	for _, s := range statuses {
		w := s.State.Waiting
		if w == nil {
			continue
		}
		place, extra := "spec.template.containers", s.Name != desired.ServerContainer
		if !extra {
			place = "the operator's flag --server-image"
		}
		switch w.Reason {
		case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError":
			return found(v1alpha1.ReasonImagePullFailed, "the image %s of the container %s can't be had (%s): put it where the node %s gets its images from, or correct its name in %s: %s", s.Image, s.Name, w.Reason, pod.Spec.NodeName, place, brief(w.Message))
		case "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError", "PostStartHookError":
			then := "the Events of the pod and its node say more"
			if extra {
				then = "correct it in " + place
			}
			return found(v1alpha1.ReasonContainerFailed, "the container %s can't be started (%s): %s: %s", s.Name, w.Reason, then, brief(w.Message))
		case "CrashLoopBackOff":
			if !extra {
				continue
			}
			last := "without a word"
			if t := s.LastTerminationState.Terminated; t != nil {
				last = fmt.Sprintf("with exit code %d: %s", t.ExitCode, failure(t))
			}
			return found(v1alpha1.ReasonContainerFailed, "the container %s keeps ending: correct it in %s: it ended last %s", s.Name, place, last)
		}
	}
	return finding{}, false
}

// serverFailed finds a server that ended with an error and has not been well
// since. Its termination message, or else the end of its log, says why.
func serverFailed(o *observed) (finding, bool) {
	s := serverStatus(o.pod)
	if s == nil {
		return finding{}, false
	}
	t := s.State.Terminated
	if t == nil && !wasReady(o.pod, s.State.Running) {
		t = s.LastTerminationState.Terminated
	}
	if t == nil || t.ExitCode == 0 {
		return finding{}, false
	}
	then := "is started again"
	if desired.CopiesOnWrite(o.export) {
		then = "its pod ends"
	}
	return endedWithError(o.pod, t, then)
}

// endedWithError says why a server ended, and what becomes of it then.
func endedWithError(pod *corev1.Pod, t *corev1.ContainerStateTerminated, then string) (finding, bool) {
	if t.ExitCode == report.ExitDeviceDenied {
		return found(v1alpha1.ReasonDeviceAccessDenied, "the server may not open a block device and %s: %s: let containerd on node %s give devices to the pod's user (device_ownership_from_security_context = true), or export a claim of volumeMode Filesystem",
			then, failure(t), pod.Spec.NodeName)
	}
	return found(v1alpha1.ReasonServerFailed, "the server ended with exit code %d and %s: %s", t.ExitCode, then, failure(t))
}

// wasReady tells whether a server that runs, but isn't ready now, has been ready
// since it was started. One that hasn't been may be on its way into the next
// failure: what is said of it should not change back and forth with each try.
func wasReady(pod *corev1.Pod, running *corev1.ContainerStateRunning) bool {
	c := podCondition(pod, corev1.PodReady)
	return running != nil && c != nil && c.LastTransitionTime.After(running.StartedAt.Time)
}

// notReady finds a server that runs and takes no new clients. Nothing is said of one
// that has just been started: nearly all are ready a moment later, and the status
// would be written once more for each.
func notReady(o *observed) (finding, bool) {
	if s := serverStatus(o.pod); s == nil || s.State.Running == nil || warmUp(o) > 0 {
		return finding{}, false
	}
	return found(v1alpha1.ReasonNotReady, "the server runs and takes no new clients: it starts, or has begun to drain")
}

// warmUp is how much longer a server that runs has to become ready; zero if it was
// ready before, or doesn't run.
func warmUp(o *observed) time.Duration {
	const most = 5 * time.Second
	s := serverStatus(o.pod)
	if s == nil || s.State.Running == nil || wasReady(o.pod, s.State.Running) {
		return 0
	}
	// The node's clock may be ahead of ours.
	return min(most, max(0, s.State.Running.StartedAt.Add(most).Sub(o.now)))
}

// starting is said from before the pod is made, and in the same words until it is
// ready or something is wrong: what happens to it on the way is in its own status.
func starting(o *observed) (finding, bool) {
	return found(v1alpha1.ReasonStarting, "the pod %s is being made, scheduled and started: kubectl describe pod says how far it is", desired.ChildName(o.export.Name))
}

// failure is what a container left as its reason to end.
func failure(t *corev1.ContainerStateTerminated) string {
	if t.Message == "" {
		return t.Reason
	}
	return brief(t.Message)
}
