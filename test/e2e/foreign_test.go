//go:build e2e

package e2e

import "testing"

// Objects of somebody else have the names that an export's would have. That is
// said, and they are left as they are; once they are gone, it is served.
func TestForeignObjects(t *testing.T) {
	n := newNamespace(t, anyTime)
	// The gate keeps everybody from writing into the pod.
	n.apply(`
apiVersion: v1
kind: Pod
metadata: {name: nbd-pod, labels: {nbdexport.io/export: pod}}
spec:
  schedulingGates: [{name: example.com/never}]
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
  - {name: theirs, image: example.com/theirs, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}
---
apiVersion: v1
kind: Service
metadata: {name: nbd-service, labels: {nbdexport.io/export: service}}
spec: {selector: {theirs: "yes"}, ports: [{port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: nbd-configmap}
data: {theirs: "yes"}`)
	kinds := []string{"pod", "service", "configmap"}
	identity := func(kind string) string {
		return n.read(kind, "nbd-"+kind, "{.metadata.uid} {.metadata.resourceVersion}")
	}
	was := map[string]string{}
	for _, kind := range kinds {
		was[kind] = identity(kind)
		n.apply(memory(kind, "a"))
	}
	for _, kind := range kinds {
		n.says(kind, "NameTaken", "nbd-"+kind, "remove it, or give the export another name")
	}
	for _, kind := range kinds {
		if got := identity(kind); got != was[kind] {
			t.Errorf("the %s is %q, not %q", kind, got, was[kind])
		}
	}
	n.kubectl("delete", "pod/nbd-pod", "service/nbd-service", "configmap/nbd-configmap")
	for _, kind := range kinds {
		n.await(kind, "Ready", "True")
	}
}

// memory is an export of a little memory.
func memory(name, volume string) string {
	return `
apiVersion: nbdexport.io/v1alpha1
kind: NBDExport
metadata: {name: ` + name + `}
spec:
  volumes:
  - {name: ` + volume + `, source: {memory: {size: 1Mi}}, access: ReadWrite}
  drain: {timeoutSeconds: 1}`
}
