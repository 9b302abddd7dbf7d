package controller_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// podFields is a spec with all that shapes the pod and the Service, which a case
// below spoils.
const podFields = `
volumes:
- name: disk
  source: {persistentVolumeClaim: {claimName: vm-disk, path: disk.qcow2}}
  format: Qcow2
- name: scratch
  source: {memory: {size: 1Mi}}
exitWhen:
- name: vm-off
  processExited: {name: qemu-kvm}
tls: {mode: Disabled}
service: {type: NodePort, annotations: {example.test/pool: storage}}
template:
  containers:
  - {name: companion, image: example.test/companion}
  affinity:
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: noisy}}}
  priorityClassName: system-node-critical
  imagePullSecrets: [{name: registry}]
  securityContext:
    runAsUser: 107
    runAsGroup: 108
    fsGroup: 109
    fsGroupChangePolicy: Always
    supplementalGroups: [36]
    seLinuxOptions: {level: "s0:c1,c2", type: container_kvm_t}
  labels: {team: storage}
  annotations: {example.test/owner: backup}
`

// TestAdmissionOfPodFields applies objects that the API server has to refuse, as
// TestAdmission does.
func TestAdmissionOfPodFields(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	const (
		nameOfOurs = "are taken by the operator"
		template   = "spec.template."
	)
	for _, c := range []struct {
		name, old, new string
		want           []string
	}{
		{"unknown format", "format: Qcow2", "format: Vmdk", []string{"spec.volumes[0].format", `"Vmdk"`, `"Raw", "Qcow2"`}},
		{"image to write", "format: Qcow2", "format: Qcow2\n  access: ReadWrite",
			[]string{"spec.volumes[0].access", "a volume with format Qcow2 can't be ReadWrite: the image is only read"}},
		{"memory in a format", "memory: {size: 1Mi}}", "memory: {size: 1Mi}}\n  format: Qcow2",
			[]string{"spec.volumes[1].format", "memory has no format"}},
		{"process without a name", "{name: qemu-kvm}", "{}", []string{"spec.exitWhen[0].processExited.name: Required value"}},
		{"process by its path", "{name: qemu-kvm}", "{name: /usr/bin/qemu-kvm}", []string{"spec.exitWhen[0].processExited.name", "should match"}},
		{"process by its number", "{name: qemu-kvm}", "{pid: 1}", []string{`unknown field "spec.exitWhen[0].processExited.pid"`}},
		{"process of two words", "{name: qemu-kvm}", "{name: qemu kvm}", []string{"spec.exitWhen[0].processExited.name", "should match"}},
		{"Service by name", "type: NodePort", "type: ExternalName",
			[]string{"spec.service.type", `"ExternalName"`, `"ClusterIP", "NodePort", "LoadBalancer"`}},
		{"Service with our annotation", "example.test/pool", "nbdexport.io/pool", []string{"spec.service.annotations", nameOfOurs}},
		{"root", "runAsUser: 107", "runAsUser: 0", []string{template + "securityContext.runAsUser", "greater than or equal to 1"}},
		{"user too large", "runAsUser: 107", "runAsUser: 2147483648", []string{template + "securityContext.runAsUser", "less than or equal to 2147483647"}},
		{"group below zero", "runAsGroup: 108", "runAsGroup: -1", []string{template + "securityContext.runAsGroup", "greater than or equal to 0"}},
		{"fsGroup below zero", "fsGroup: 109", "fsGroup: -1", []string{template + "securityContext.fsGroup", "greater than or equal to 0"}},
		{"policy of fsGroup", "Always", "Never", []string{template + "securityContext.fsGroupChangePolicy", `"OnRootMismatch", "Always"`}},
		{"further group below zero", "[36]", "[-1]", []string{template + "securityContext.supplementalGroups[0]", "greater than or equal to 0"}},
		{"further group twice", "[36]", "[36, 36]", []string{template + "securityContext.supplementalGroups[1]", "Duplicate value"}},
		{"SELinux type", "container_kvm_t", "spc_t", []string{template + "securityContext.seLinuxOptions.type", `"container_t"`}},
		{"SELinux user", "type: container_kvm_t", "user: system_u", []string{`unknown field "spec.template.securityContext.seLinuxOptions.user"`}},
		{"SELinux without anything", `{level: "s0:c1,c2", type: container_kvm_t}`, "{}", []string{template + "securityContext.seLinuxOptions", "at least 1 properties"}},
		{"privileged", "runAsUser: 107", "runAsNonRoot: false", []string{`unknown field "spec.template.securityContext.runAsNonRoot"`}},
		{"no priority class", "priorityClassName: system-node-critical", `priorityClassName: ""`, []string{template + "priorityClassName", "at least 1 chars"}},
		{"Secret without a name", "[{name: registry}]", "[{}]", []string{template + "imagePullSecrets[0].name: Required value"}},
		{"Secret twice", "[{name: registry}]", "[{name: registry}, {name: registry}]", []string{template + "imagePullSecrets[1]", "Duplicate value"}},
		{"label of ours", "{team: storage}", "{nbdexport.io/export: other}", []string{template + "labels", nameOfOurs}},
		{"label that monitoring looks for", "{team: storage}", "{app.kubernetes.io/name: other}", []string{template + "labels", nameOfOurs}},
		{"label with a space", "{team: storage}", "{team: the storage}", []string{template + "labels.team", "should match"}},
		{"annotation of ours", "example.test/owner", "nbdexport.io/node", []string{template + "annotations", nameOfOurs}},
		{"annotation without an end", "backup", strings.Repeat("x", 4097), []string{template + "annotations.example.test/owner", "4096"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.Count(podFields, c.old) != 1 {
				t.Fatalf("%q isn't there exactly once to be replaced", c.old)
			}
			err := create(t, ns, "bad", strings.Replace(podFields, c.old, c.new, 1))
			if err == nil {
				t.Fatal("was accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the message lacks %q:\n%v", want, err)
				}
			}
		})
	}
}

// TestPodFields makes a pod and a Service with all of them on a real API server,
// which leaves them as they are.
func TestPodFields(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("vm-disk", "ReadWriteOnce", false)
	w.export("e", podFields)
	pod := w.pod("nbd-e", nil)
	w.serve(pod)
	e := w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)

	s, c := pod.Spec, pod.Spec.SecurityContext
	if s.ShareProcessNamespace == nil || !*s.ShareProcessNamespace || s.PriorityClassName != "system-node-critical" ||
		len(s.ImagePullSecrets) != 1 || s.ImagePullSecrets[0].Name != "registry" || s.Affinity == nil || s.Affinity.PodAntiAffinity == nil {
		t.Errorf("the pod: %+v", s)
	}
	if *c.RunAsUser != 107 || *c.RunAsGroup != 108 || *c.FSGroup != 109 || *c.FSGroupChangePolicy != corev1.FSGroupChangeAlways ||
		len(c.SupplementalGroups) != 1 || c.SupplementalGroups[0] != 36 || c.SELinuxOptions.Type != "container_kvm_t" || !*c.RunAsNonRoot {
		t.Errorf("the security context: %+v", c)
	}
	if pod.Labels["team"] != "storage" || pod.Annotations["example.test/owner"] != "backup" {
		t.Errorf("labels %v, annotations %v", pod.Labels, pod.Annotations)
	}
	args := strings.Join(s.Containers[0].Args, " ")
	says(t, args, "--exit-when-process-exits=name=qemu-kvm")
	says(t, args, "disk=disk.qcow2,root=/volumes/disk,access=read-only,format=qcow2")

	var service corev1.Service
	get(t, client.ObjectKey{Namespace: w.ns, Name: "nbd-e"}, &service)
	if service.Spec.Type != corev1.ServiceTypeNodePort || service.Annotations["example.test/pool"] != "storage" {
		t.Errorf("the Service: %+v", service)
	}
	if want := "nbd://nbd-e." + w.ns + ".svc:10809/disk"; ptr.Deref(e.Status.URI, "") != want {
		t.Errorf("URI %s, want %s", ptr.Deref(e.Status.URI, ""), want)
	}
}

// TestServiceChanges changes type and annotations of a Service, which takes no new
// pod. What others have written into it stays.
func TestServiceChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("vm-disk", "ReadWriteOnce", false)
	w.export("e", podFields)
	pod := w.pod("nbd-e", nil)
	w.serve(pod)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	key := client.ObjectKey{Namespace: w.ns, Name: "nbd-e"}
	var service corev1.Service
	get(t, key, &service)
	base := service.DeepCopy()
	service.Annotations["example.test/others"] = "1"
	if err := kube.Patch(context.Background(), &service, client.MergeFrom(base)); err != nil {
		t.Fatal(err)
	}
	w.change("e", func(s *v1alpha1.NBDExportSpec) {
		s.Service.Type = ptr.To(v1alpha1.ServiceClusterIP)
		s.Service.Annotations = nil
	})
	eventually(t, "the Service should have changed", func() string {
		get(t, key, &service)
		if _, there := service.Annotations["example.test/pool"]; there || service.Spec.Type != corev1.ServiceTypeClusterIP {
			return fmt.Sprint(service.Spec.Type, service.Annotations)
		}
		return ""
	})
	if service.Annotations["example.test/others"] != "1" {
		t.Errorf("somebody else's annotation is gone: %v", service.Annotations)
	}
	same(t, pod)
}

// TestQcow2OfBlockClaim offers the image that a device holds.
func TestQcow2OfBlockClaim(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("block", "ReadWriteOnce", true)
	w.export("e", "volumes: [{name: a, source: {persistentVolumeClaim: {claimName: block}}, format: Qcow2}]\ntls: {mode: Disabled}")
	says(t, strings.Join(w.pod("nbd-e", nil).Spec.Containers[0].Args, " "), "a=/dev/nbdexport/a,access=read-only,format=qcow2")
}
