package controller_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// TestTemplate has the API server accept a pod with all that a template can have.
func TestTemplate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.export("e", `
volumes: [{name: disk, source: {memory: {size: 1Mi}}}]
exitWhen: [{name: closed, pipeClosed: {path: /run/nbdexport/fifo}}]
tls: {mode: Disabled}
template:
  containers:
  - name: companion
    image: example.test/companion
    env: [{name: A, value: b}]
    ports: [{containerPort: 80}]
    volumeMounts: [{name: data, mountPath: /data}]
    startupProbe: {exec: {command: [/bin/true]}}
  volumes: [{name: data, emptyDir: {}}]
  nodeSelector: {disk: fast}
  tolerations: [{key: storage, operator: Exists}]
  resources: {limits: {memory: 1Gi}}
`)
	s := w.pod("nbd-e", nil).Spec
	c := s.InitContainers[0]
	if c.Name != "companion" || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways || len(c.VolumeMounts) != 2 || *c.SecurityContext.AllowPrivilegeEscalation {
		t.Errorf("companion: %+v", c)
	}
	if s.NodeSelector["disk"] != "fast" || s.Containers[0].Resources.Limits.Memory().String() != "1Gi" || s.Tolerations[0].Key != "storage" {
		t.Errorf("pod: %+v", s)
	}
}

// TestLongNames exports under the longest names that an object can have.
func TestLongNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{strings.Repeat("a", 63), strings.Repeat("a.", 126) + "a"} {
		w.export(name, "volumes: [{name: disk, source: {memory: {size: 1Mi}}}]\ntls: {mode: Disabled}")
		var pod string
		eventually(t, "the pod of "+name, func() string {
			if pod = ptr.Deref(w.read(name).Status.PodName, ""); pod == "" {
				return "isn't in the status"
			}
			return ""
		})
		w.pod(pod, nil)
		if uri := ptr.Deref(w.read(name).Status.URI, ""); uri != "nbd://"+pod+"."+w.ns+".svc:10809/disk" {
			t.Errorf("uri %s", uri)
		}
	}
}
