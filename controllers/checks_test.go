package controllers

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestChecksBeforePod spoils one thing at a time in a scene in which all is well.
func TestChecksBeforePod(t *testing.T) {
	checks := append(append([]check{}, nameChecks...), claimChecks...)
	if f, found := firstOf(checks, scene()); found {
		t.Fatalf("all is well, but: %+v", f)
	}
	now := metav1.NewTime(noon)
	for _, c := range []struct {
		name  string
		spoil func(*observed)
		want  string   // reason; empty if nothing is found
		words []string // of the message
	}{
		{"foreign pod", func(o *observed) { o.pod = userPod("nbd-e", "") },
			v1alpha1.ReasonNameTaken, []string{"pod nbd-e", "remove it"}},
		{"pod of an earlier export", func(o *observed) { withPod(o).OwnerReferences[0].UID = "0" },
			v1alpha1.ReasonNameTaken, []string{"pod nbd-e", "earlier export"}},
		{"own pod", func(o *observed) { withPod(o) }, "", nil},
		{"foreign Service", func(o *observed) {
			o.service = &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "nbd-e"}}
		}, v1alpha1.ReasonNameTaken, []string{"Service nbd-e"}},
		{"foreign ConfigMap", func(o *observed) {
			o.configMap = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "nbd-e"}}
		}, v1alpha1.ReasonNameTaken, []string{"ConfigMap nbd-e"}},
		{"no claim", func(o *observed) { delete(o.claims, "disk") },
			v1alpha1.ReasonClaimNotFound, []string{"PersistentVolumeClaim disk", "create it"}},
		{"claim going", func(o *observed) { o.claims["disk"].DeletionTimestamp = &now },
			v1alpha1.ReasonClaimDeleting, []string{"PersistentVolumeClaim disk"}},
		{"claim lost", func(o *observed) { o.claims["disk"].Status.Phase = corev1.ClaimLost },
			v1alpha1.ReasonClaimLost, []string{"PersistentVolumeClaim disk", "pv-1"}},
		{"claim pending", func(o *observed) { o.claims["disk"].Status.Phase = corev1.ClaimPending }, "", nil},
		{"path of a device", func(o *observed) {
			o.claims["disk"].Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
			o.export.Spec.Volumes[0].Source.PersistentVolumeClaim.Path = ptr.To(v1alpha1.FilePath("a.img"))
		}, v1alpha1.ReasonInvalidVolume, []string{"volume disk", "take the path out"}},
		{"device twice", func(o *observed) {
			o.claims["disk"].Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
			o.export.Spec.Volumes[1].Source = o.export.Spec.Volumes[0].Source
		}, v1alpha1.ReasonInvalidVolume, []string{"volumes disk and scratch"}},
		{"file twice, to read", func(o *observed) {
			o.export.Spec.Volumes[1].Source = o.export.Spec.Volumes[0].Source
		}, "", nil},
		{"file twice, once to write", func(o *observed) {
			o.export.Spec.Volumes[1].Source = v1alpha1.VolumeSource{PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "disk", Path: ptr.To(v1alpha1.FilePath("./disk.img"))}}
			o.export.Spec.Volumes[1].Access = ptr.To(v1alpha1.ReadWrite)
		}, v1alpha1.ReasonInvalidVolume, []string{"volumes disk and scratch", "disk.img", "one of them is ReadWrite"}},
		{"file twice, once to copy", func(o *observed) {
			o.export.Spec.Volumes[1].Source = o.export.Spec.Volumes[0].Source
			o.export.Spec.Volumes[1].Access = ptr.To(v1alpha1.CopyOnWrite)
		}, "", nil},
		{"two files of a claim to write", func(o *observed) {
			o.export.Spec.Volumes[1].Source = v1alpha1.VolumeSource{PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "disk", Path: ptr.To(v1alpha1.FilePath("b.img"))}}
			o.export.Spec.Volumes[0].Access, o.export.Spec.Volumes[1].Access = ptr.To(v1alpha1.ReadWrite), ptr.To(v1alpha1.ReadWrite)
		}, "", nil},
		{"exported claim in the template", func(o *observed) { o.export.Spec.Template = templateVolume("disk") },
			v1alpha1.ReasonInvalidVolume, []string{"volume data of the template", "PersistentVolumeClaim disk", "out of the spec"}},
		{"other claim in the template", func(o *observed) { o.export.Spec.Template = templateVolume("data") }, "", nil},
		{"held", func(o *observed) { o.users["disk"] = []corev1.Pod{*userPod("vm", "node-7")} }, "", nil},
		{"held on two nodes", func(o *observed) {
			o.users["disk"] = []corev1.Pod{*userPod("vm", "node-7"), *userPod("vm-2", "node-8")}
		}, v1alpha1.ReasonVolumeInUse, []string{"vm", "node-7", "vm-2", "node-8"}},
		{"ReadWriteMany on two nodes", func(o *observed) {
			o.claims["disk"].Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
			o.users["disk"] = []corev1.Pod{*userPod("vm", "node-7"), *userPod("vm-2", "node-8")}
		}, "", nil},
		{"ReadWriteOncePod held", func(o *observed) {
			o.claims["disk"].Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
			o.users["disk"] = []corev1.Pod{*userPod("vm", "node-7")}
		}, v1alpha1.ReasonReadWriteOncePodClaimed, []string{"pod vm", "node-7", "PersistentVolumeClaim disk"}},
		{"ReadWriteOncePod held no more", func(o *observed) {
			o.claims["disk"].Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
			vm := userPod("vm", "node-7")
			vm.Status.Phase = corev1.PodSucceeded
			o.users["disk"] = []corev1.Pod{*vm, *userPod("waiting", "")}
		}, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := scene()
			c.spoil(o)
			f, _ := firstOf(checks, o)
			expectFinding(t, f, c.want, c.words)
		})
	}
}

// TestPodChecks gives the export's pod one state after the other.
func TestPodChecks(t *testing.T) {
	waiting := func(reason, message string) corev1.ContainerStatus {
		return corev1.ContainerStatus{Image: "example.test/i", State: corev1.ContainerState{
			Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}
	}
	unscheduled := func(p *corev1.Pod) {
		p.Spec.NodeName = ""
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes are available"}}
	}
	for _, c := range []struct {
		name  string
		state func(*observed, *corev1.Pod)
		want  string
		words []string
	}{
		{"nothing yet", func(_ *observed, p *corev1.Pod) { p.Spec.NodeName = "" }, v1alpha1.ReasonStarting, []string{"the pod nbd-e"}},
		{"on a node", func(*observed, *corev1.Pod) {}, v1alpha1.ReasonStarting, []string{"the pod nbd-e"}},
		{"unschedulable", func(_ *observed, p *corev1.Pod) { unscheduled(p) }, v1alpha1.ReasonUnschedulable, []string{"0/3 nodes"}},
		{"unschedulable by its claim", func(o *observed, p *corev1.Pod) {
			unscheduled(p)
			o.claims["disk"].Status.Phase = corev1.ClaimPending
		}, v1alpha1.ReasonClaimPending, []string{"PersistentVolumeClaim disk", "0/3 nodes"}},
		{"unschedulable by a holder", func(o *observed, p *corev1.Pod) {
			unscheduled(p)
			o.users["disk"] = []corev1.Pod{*userPod("vm", "node-7")}
		}, v1alpha1.ReasonVolumeInUse, []string{"pod vm", "node-7", "PersistentVolumeClaim disk", "0/3 nodes"}},
		{"unschedulable, claim gone", func(o *observed, p *corev1.Pod) {
			unscheduled(p)
			delete(o.claims, "disk")
		}, v1alpha1.ReasonClaimNotFound, nil},
		{"image", func(_ *observed, p *corev1.Pod) { server(p, waiting("ImagePullBackOff", "not found")) },
			v1alpha1.ReasonImagePullFailed, []string{"example.test/i", "nbdserver", "ImagePullBackOff", "not found"}},
		{"image of an extra container", func(_ *observed, p *corev1.Pod) {
			s := waiting("ErrImagePull", "denied")
			s.Name = "companion"
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{s}
			server(p, waiting("PodInitializing", ""))
		}, v1alpha1.ReasonImagePullFailed, []string{"companion", "denied"}},
		{"container not created", func(_ *observed, p *corev1.Pod) {
			server(p, waiting("CreateContainerConfigError", "image will run as root"))
		}, v1alpha1.ReasonContainerFailed, []string{"nbdserver", "will run as root"}},
		{"crash loop", func(_ *observed, p *corev1.Pod) {
			s := waiting("CrashLoopBackOff", "back-off 10s")
			s.LastTerminationState = terminated(1, "nbdserver: /volumes/disk/disk.img: no such file\n").State
			server(p, s)
		}, v1alpha1.ReasonServerFailed, []string{"exit code 1", "no such file"}},
		{"device denied", func(_ *observed, p *corev1.Pod) {
			p.Spec.NodeName = "node-1"
			server(p, terminated(5, "nbdserver: volume \"/dev/nbdexport/disk\": permission denied for user 65532, group 65532\n"))
		}, v1alpha1.ReasonDeviceAccessDenied, []string{"/dev/nbdexport/disk", "user 65532", "node-1", "device_ownership_from_security_context"}},
		{"crashed", func(_ *observed, p *corev1.Pod) { server(p, terminated(137, "")) }, v1alpha1.ReasonServerFailed, []string{"exit code 137"}},
		{"crashed, runs again", func(_ *observed, p *corev1.Pod) {
			ranAgain(p, noon.Add(-time.Minute))
		}, v1alpha1.ReasonServerFailed, []string{"exit code 1", "no such file"}},
		{"crashed once, was ready again", func(_ *observed, p *corev1.Pod) {
			ranAgain(p, noon.Add(time.Minute))
		}, v1alpha1.ReasonNotReady, nil},
		{"extra container", func(_ *observed, p *corev1.Pod) {
			s := waiting("CrashLoopBackOff", "")
			s.Name, s.LastTerminationState = "companion", terminated(2, "usage").State
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{s}
			server(p, waiting("PodInitializing", ""))
		}, v1alpha1.ReasonContainerFailed, []string{"companion", "exit code 2", "usage"}},
		{"runs", func(_ *observed, p *corev1.Pod) {
			server(p, corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
		}, v1alpha1.ReasonNotReady, nil},
		{"runs since a moment ago", func(_ *observed, p *corev1.Pod) { runsSince(p, noon.Add(-4*time.Second)) }, v1alpha1.ReasonStarting, nil},
		{"runs for a while", func(_ *observed, p *corev1.Pod) { runsSince(p, noon.Add(-5*time.Second)) }, v1alpha1.ReasonNotReady, nil},
		{"signalled, others still end", func(_ *observed, p *corev1.Pod) {
			server(p, terminated(0, reportOf(t, "signal=SIGTERM", 0)))
		}, v1alpha1.ReasonDraining, nil},
		{"image of the server", func(_ *observed, p *corev1.Pod) { server(p, waiting("ErrImagePull", "denied")) },
			v1alpha1.ReasonImagePullFailed, []string{"container nbdserver", "node-7", "--server-image"}},
		{"image of an extra container, what to do", func(_ *observed, p *corev1.Pod) {
			companion(p, waiting("ErrImagePull", "denied"))
			server(p, waiting("PodInitializing", ""))
		}, v1alpha1.ReasonImagePullFailed, []string{"container companion", "spec.template.containers"}},
		{"extra container not created, what to do", func(_ *observed, p *corev1.Pod) {
			companion(p, waiting("CreateContainerConfigError", "secret not found"))
			server(p, waiting("PodInitializing", ""))
		}, v1alpha1.ReasonContainerFailed, []string{"container companion", "secret not found", "spec.template.containers"}},
		{"image of the server, extra container in a crash loop", func(_ *observed, p *corev1.Pod) {
			companion(p, waiting("CrashLoopBackOff", ""))
			server(p, waiting("ImagePullBackOff", "not found"))
		}, v1alpha1.ReasonImagePullFailed, []string{"container nbdserver"}},
		{"crash loop, and the image of an extra container", func(_ *observed, p *corev1.Pod) {
			companion(p, waiting("ImagePullBackOff", "not found"))
			s := waiting("CrashLoopBackOff", "")
			s.LastTerminationState = terminated(1, "nbdserver: no such file").State
			server(p, s)
		}, v1alpha1.ReasonServerFailed, []string{"no such file"}},
		{"not ready, and an extra container in a crash loop", func(_ *observed, p *corev1.Pod) {
			runs(p)
			p.Status.ContainerStatuses[0].Ready, p.Status.Conditions[0].Status = false, corev1.ConditionFalse
			companion(p, waiting("CrashLoopBackOff", ""))
		}, v1alpha1.ReasonNotReady, nil},
		{"ready but for an extra container", func(o *observed, p *corev1.Pod) { unreadyCompanion(o, terminated(2, "usage")) },
			v1alpha1.ReasonServing, []string{"clients can connect"}},
		{"ready but for an extra container in a crash loop", func(o *observed, p *corev1.Pod) {
			s := waiting("CrashLoopBackOff", "")
			s.LastTerminationState = terminated(2, "usage").State
			unreadyCompanion(o, s)
		}, v1alpha1.ReasonServing, []string{"clients can connect, but the container companion keeps ending", "spec.template.containers", "exit code 2: usage"}},
		{"ready but for an extra container, its node is lost", func(o *observed, p *corev1.Pod) {
			unreadyCompanion(o, terminated(2, "usage"))
			o.node.state = nodeUnreachable
		}, v1alpha1.ReasonNotReady, nil},
		{"ready, extra container in a crash loop", func(_ *observed, p *corev1.Pod) {
			s := waiting("CrashLoopBackOff", "")
			s.Name = "companion"
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{s}
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}, v1alpha1.ReasonServing, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := scene()
			c.state(o, withPod(o))
			f, found := firstOf(podChecks, o)
			if !found {
				t.Fatal("nothing is found")
			}
			expectFinding(t, f, c.want, c.words)
		})
	}
}

// companion gives the pod an extra container with a status.
func companion(p *corev1.Pod, s corev1.ContainerStatus) {
	s.Name = "companion"
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{s}
}

// unreadyCompanion has all be well with the pod but for an extra container, of which its
// kubelet tells.
func unreadyCompanion(o *observed, s corev1.ContainerStatus) {
	runs(o.pod)
	companion(o.pod, s)
	o.pod.Status.Conditions = []corev1.PodCondition{
		{Type: corev1.PodReady, Status: corev1.ConditionFalse}, {Type: corev1.ContainersReady, Status: corev1.ConditionFalse}}
	o.node.state = nodeReady
}

func expectFinding(t *testing.T, f finding, reason string, words []string) {
	t.Helper()
	if f.reason != reason {
		t.Fatalf("found %q: %s\nwant %q", f.reason, f.message, reason)
	}
	for _, w := range words {
		if !strings.Contains(f.message, w) {
			t.Errorf("the message lacks %q: %s", w, f.message)
		}
	}
}

// ranAgain gives the pod a server that ended with an error and was started again
// at noon. The pod has not been ready since the given time.
func ranAgain(p *corev1.Pod, notReadySince time.Time) {
	server(p, corev1.ContainerStatus{
		State:                corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(noon)}},
		LastTerminationState: terminated(1, "nbdserver: /volumes/disk/disk.img: no such file").State,
	})
	p.Status.Conditions = []corev1.PodCondition{{
		Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(notReadySince)}}
}

func templateVolume(claim string) *v1alpha1.PodTemplate {
	return &v1alpha1.PodTemplate{Volumes: []corev1.Volume{{Name: "empty"}, {Name: "data", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}}
}
