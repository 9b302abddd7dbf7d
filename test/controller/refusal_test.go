package controller_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// ofClaim is an export of the claim "disk".
const ofClaim = `
volumes:
- name: disk
  source: {persistentVolumeClaim: {claimName: disk}}
tls: {mode: Disabled}
`

// noPod fails if the export "e" has a pod.
func (w *world) noPod() {
	w.Helper()
	w.settled("e")
	if !w.absent(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "nbd-e"}}) {
		w.Error("a pod was made")
	}
}

// says fails if a message lacks one of the words.
func says(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("the message lacks %q: %s", word, text)
		}
	}
}

func TestClaimNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.export("e", ofClaim)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonClaimNotFound)
	says(t, message(e, v1alpha1.ConditionReady), "PersistentVolumeClaim disk doesn't exist")
	w.expect("e", v1alpha1.ConditionProgressing, no, v1alpha1.ReasonClaimNotFound)
	w.noPod()

	w.claim("disk", corev1.ReadWriteOnce, false)
	pod := w.pod("nbd-e", nil)
	if m := pod.Spec.Containers[0].VolumeMounts; len(m) != 3 || m[2].MountPath != "/volumes/disk" || !m[2].ReadOnly {
		t.Errorf("mounts: %+v", m)
	}
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonStarting)
}

// TestClaimLost also brings a claim to its end that was marked for deletion.
func TestClaimLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	claim := w.claim("disk", corev1.ReadWriteOnce, false)
	claim.Status.Phase = corev1.ClaimLost
	if err := kube.Status().Update(context.Background(), claim); err != nil {
		t.Fatal(err)
	}
	w.export("e", ofClaim)
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonClaimLost)
	w.noPod()
	w.remove(claim) // the API server's own finalizer holds it
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonClaimDeleting)
}

func TestPathOfBlockClaim(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("disk", corev1.ReadWriteOnce, true)
	w.export("e", strings.Replace(ofClaim, "claimName: disk", "claimName: disk, path: a.img", 1))
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonInvalidVolume)
	says(t, message(e, v1alpha1.ConditionReady), "volume disk has a path", "block device")
	w.noPod()
}

func TestBlockClaim(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("disk", corev1.ReadWriteOnce, true)
	w.export("e", ofClaim)
	c := w.pod("nbd-e", nil).Spec.Containers[0]
	if len(c.VolumeDevices) != 1 || c.VolumeDevices[0].DevicePath != "/dev/nbdexport/disk" ||
		c.Args[len(c.Args)-1] != "disk=/dev/nbdexport/disk,access=read-only" {
		t.Errorf("devices %+v, args %q", c.VolumeDevices, c.Args)
	}
}

func TestReadWriteOncePodClaimed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("disk", corev1.ReadWriteOncePod, false)
	vm := w.user("vm", "node-7", "disk")
	w.export("e", ofClaim)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonReadWriteOncePodClaimed)
	says(t, message(e, v1alpha1.ConditionReady), "pod vm", "node-7", "PersistentVolumeClaim disk")
	w.noPod()
	w.remove(vm)
	w.kill(vm)
	w.pod("nbd-e", nil)
}

// TestFollowsHolder sends the pod after the pod that holds its claim.
func TestFollowsHolder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("disk", corev1.ReadWriteOnce, false)
	vm := w.user("vm", "node-7", "disk")
	w.export("e", ofClaim)
	pod := w.pod("nbd-e", nil)
	if got := node(pod); got != "node-7" {
		t.Errorf("the pod wants node %q", got)
	}
	tolerates := false
	for _, tol := range pod.Spec.Tolerations {
		tolerates = tolerates || tol.Key == "vm-nodes"
	}
	if !tolerates {
		t.Errorf("the pod doesn't tolerate what its holder does: %+v", pod.Spec.Tolerations)
	}

	w.kubelet(pod, func(s *corev1.PodStatus) {
		s.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse,
			Reason: "Unschedulable", Message: "0/1 nodes are available: 1 Insufficient cpu."}}
	})
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonVolumeInUse)
	says(t, message(e, v1alpha1.ConditionReady), "pod vm", "node-7", "PersistentVolumeClaim disk", "Insufficient cpu")

	// The VM moves while the pod waits.
	w.remove(vm)
	w.kill(vm)
	w.user("vm-2", "node-8", "disk")
	eventually(t, "the pod should follow", func() string {
		if err := kube.Get(context.Background(), w.key("nbd-e"), pod); err != nil {
			return err.Error()
		}
		if got := node(pod); got != "node-8" {
			return "it wants " + got
		}
		return ""
	})
}

// node is the node that a pod insists on.
func node(pod *corev1.Pod) string {
	if pod.Spec.Affinity == nil {
		return ""
	}
	return pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
}

func TestHeldOnTwoNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("disk", corev1.ReadWriteOnce, false)
	w.claim("other", corev1.ReadWriteOnce, false)
	w.user("vm-1", "node-1", "disk")
	w.user("vm-2", "node-2", "other")
	w.export("e", strings.Replace(ofClaim, "tls:", "- name: other\n  source: {persistentVolumeClaim: {claimName: other}}\ntls:", 1))
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonVolumeInUse)
	says(t, message(e, v1alpha1.ConditionReady), "vm-1", "node-1", "vm-2", "node-2")
	w.noPod()
}

// TestForeignPod finds a pod of somebody else under its name and leaves it alone.
func TestForeignPod(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	foreign := w.user("nbd-e", "node-1", "")
	w.export("e", ofClaim)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonNameTaken)
	says(t, message(e, v1alpha1.ConditionReady), "pod nbd-e")
	w.settled("e")
	w.remove(w.read("e"))
	w.gone(&v1alpha1.NBDExport{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "e"}})
	untouched(t, foreign, &corev1.Pod{})
}

// TestForeignPodGone goes on when the pod of somebody else is gone.
func TestForeignPodGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	foreign := w.user("nbd-e", "node-1", "")
	w.export("e", "volumes: [{name: a, source: {memory: {size: 1}}}]\ntls: {mode: Disabled}")
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonNameTaken)
	w.settled("e")
	w.kill(foreign)
	w.pod("nbd-e", foreign)
}

// TestForeignService finds a Service of somebody else under its name and leaves it
// alone. It starts when that is gone.
func TestForeignService(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("disk", corev1.ReadWriteOnce, false)
	foreign := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "nbd-e"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}
	w.must(foreign)
	w.export("e", ofClaim)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonNameTaken)
	says(t, message(e, v1alpha1.ConditionReady), "Service nbd-e")
	if e.Status.URI != nil {
		t.Errorf("the URI %s leads to somebody else's Service", ptr.Deref(e.Status.URI, ""))
	}
	w.noPod()
	untouched(t, foreign, &corev1.Service{})
}

// untouched fails if an object isn't as it was made.
func untouched(t *testing.T, was, is client.Object) {
	t.Helper()
	get(t, client.ObjectKeyFromObject(was), is)
	if was.GetResourceVersion() != is.GetResourceVersion() || !is.GetDeletionTimestamp().IsZero() {
		t.Errorf("%s has changed", was.GetName())
	}
}

// TestServiceCorrected gives a Service back what somebody has changed.
func TestServiceCorrected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	running(w)
	var svc corev1.Service
	get(t, w.key("nbd-e"), &svc)
	svc.Spec.Selector = map[string]string{v1alpha1.LabelExport: "another"}
	if err := kube.Update(context.Background(), &svc); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the selector should be corrected", func() string {
		get(t, w.key("nbd-e"), &svc)
		if svc.Spec.Selector[v1alpha1.LabelExport] != "e" {
			return fmt.Sprint(svc.Spec.Selector)
		}
		return ""
	})
}

// TestPodRejected has a template that the API server finds invalid only in the pod.
func TestPodRejected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.export("e", `
volumes: [{name: disk, source: {memory: {size: 1Mi}}}]
tls: {mode: Disabled}
template:
  containers:
  - {name: companion, image: example.test/c, volumeMounts: [{name: missing, mountPath: /x}]}
`)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonPodRejected)
	says(t, message(e, v1alpha1.ConditionReady), "missing")
	if e.Status.PodName != nil {
		t.Errorf("podName is %s", ptr.Deref(e.Status.PodName, ""))
	}
}

// TestPodRejectedForNow has the namespace refuse the pod until its policy is changed.
// In between nothing is written that isn't new.
func TestPodRejectedForNow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	enforce(w, "restricted")
	w.export("e", `
volumes: [{name: disk, source: {memory: {size: 1Mi}}}]
tls: {mode: Disabled}
template:
  containers:
  - {name: companion, image: example.test/c, securityContext: {allowPrivilegeEscalation: true}}
`)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonPodRejected)
	says(t, message(e, v1alpha1.ConditionReady), "PodSecurity", "companion")
	for i := range 3 {
		// The times in a status are whole seconds.
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
		wake(w, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "nbd-e"}}, fmt.Sprint(i))
		w.settled(fmt.Sprint("e-", i))
		if now := w.read("e"); now.ResourceVersion != e.ResourceVersion {
			t.Fatalf("the export was written although nothing has changed: %+v, was %+v", now.Status, e.Status)
		}
	}

	enforce(w, "privileged")
	eventually(t, "the pod should be made", func() string {
		wake(w, e, fmt.Sprint(time.Now().UnixNano()))
		if w.absent(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "nbd-e"}}) {
			return message(w.read("e"), v1alpha1.ConditionReady)
		}
		return ""
	})
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonStarting)
}

// enforce has a Pod Security Standard hold in the namespace.
func enforce(w *world, standard string) {
	w.Helper()
	label(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}, "pod-security.kubernetes.io/enforce", standard)
}

// wake changes something about an object that means nothing, and so has the
// export looked at which it concerns.
func wake(w *world, obj client.Object, value string) {
	w.Helper()
	label(w, obj, "touched", value)
}

func label(w *world, obj client.Object, key, value string) {
	w.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, key, value)
	if err := kube.Patch(context.Background(), obj, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		w.Fatal(err)
	}
}

// TestServerFailed reads the reason of a crash loop.
func TestServerFailed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("vm", "node-1", "")
	w.export("e", untilVMGone)
	pod := w.pod("nbd-e", nil)
	w.bind(pod, "node-1")
	w.kubelet(pod, func(s *corev1.PodStatus) {
		s.Phase = corev1.PodRunning
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "nbdserver",
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 10s"}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				ExitCode: 1, Reason: "Error", Message: "nbdserver: disk.img: no such file\n"}}}}
	})
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonServerFailed)
	says(t, message(e, v1alpha1.ConditionReady), "exit code 1", "nbdserver: disk.img: no such file")
}
