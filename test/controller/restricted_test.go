package controller_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestRestricted has the API server's own admission of the Pod Security Standard
// "restricted" take every kind of pod that an export can have; that of a snapshot is
// that of a claim. It is in force: the pod of a companion that wants more is refused.
func TestRestricted(t *testing.T) {
	t.Parallel()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "restricted-",
		Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}}}
	if err := kube.Create(context.Background(), ns); err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, ns: ns.Name, parallel: 4}
	w.start()
	t.Cleanup(func() { w.stop() })
	w.claim("disk", corev1.ReadWriteOnce, false)
	w.claim("block", corev1.ReadWriteOnce, true)
	w.claim("golden", corev1.ReadOnlyMany, false)
	w.must(brought(w))

	const (
		memory = "volumes: [{name: a, source: {memory: {size: 1Mi}}, access: ReadWrite}]\n"
		plain  = "tls: {mode: Disabled}\n"
	)
	variants := map[string]string{
		"memory":        memory,
		"no-tls":        memory + plain,
		"any-client":    memory + "tls: {clientAuth: None}",
		"own":           memory + "tls: {secretRef: {name: own}}",
		"file":          "volumes: [{name: a, source: {persistentVolumeClaim: {claimName: disk}}, access: ReadWrite}]",
		"device":        "volumes: [{name: a, source: {persistentVolumeClaim: {claimName: block}}, access: ReadWrite}]",
		"image":         "volumes: [{name: a, source: {persistentVolumeClaim: {claimName: golden}}, format: Qcow2}]",
		"copy-on-write": "volumes: [{name: a, source: {persistentVolumeClaim: {claimName: golden}}, access: CopyOnWrite, scratch: {sizeLimit: 1Gi}}]",
		"several": "volumes: [{name: a, source: {persistentVolumeClaim: {claimName: golden}}}, " +
			"{name: b, source: {memory: {size: 1}}, access: CopyOnWrite, scratch: {sizeLimit: 1Gi}}]",
		"conditions": memory + `exitWhen:
- {name: a, fileCreated: {path: /run/nbdexport/a}}
- {name: b, pipeClosed: {path: /run/nbdexport/b}}
- {name: c, script: {command: [/run/nbdexport/c]}}
- {name: d, lastClientLeft: {}}
- {name: e, idle: {seconds: 3600}}
- {name: f, deadline: {seconds: 3600}}`,
		"template": memory + `template:
  nodeSelector: {a: b}
  tolerations: [{operator: Exists}]
  resources: {limits: {memory: 1Gi}}
  priorityClassName: system-node-critical
  imagePullSecrets: [{name: registry}]
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
  labels: {a: b}
  annotations: {a: b}
  volumes: [{name: a, emptyDir: {}}]
  securityContext: {runAsUser: 107, runAsGroup: 0, fsGroup: 0, fsGroupChangePolicy: Always, supplementalGroups: [0], seLinuxOptions: {level: "s0:c1,c2"}}`,
		"companion": memory + `exitWhen: [{name: a, processExited: {name: sleep}}]
template: {containers: [{name: a, image: example.test/a, ports: [{containerPort: 80}]}]}`,
	}
	for _, domain := range []string{"container_t", "container_init_t", "container_kvm_t", "container_engine_t"} {
		variants[strings.ReplaceAll(domain, "_", "-")] = memory + "template: {securityContext: {seLinuxOptions: {type: " + domain + "}}}"
	}
	for name, spec := range variants {
		w.export(name, spec)
	}
	w.export("too-much", memory+plain+"template: {containers: [{name: a, image: example.test/a, securityContext: {privileged: true}}]}")
	for name := range variants {
		w.pod("nbd-"+name, nil)
	}
	e := w.expect("too-much", v1alpha1.ConditionReady, no, v1alpha1.ReasonPodRejected)
	says(t, message(e, v1alpha1.ConditionReady), "PodSecurity", "restricted")
}
