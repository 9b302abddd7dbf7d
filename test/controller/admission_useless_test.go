package controller_test

import (
	"strings"
	"testing"
)

// TestAdmissionOfTheUseless applies objects that look right, and of which no pod
// could ever serve, or one that isn't what was promised. With the names among them
// the operator couldn't even ask for the object, nor write down the times.
func TestAdmissionOfTheUseless(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	const (
		memory     = "volumes: [{name: a, source: {memory: {size: 1Mi}}}]\n"
		claim      = "volumes: [{name: a, source: {persistentVolumeClaim: "
		when       = memory + "exitWhen: [{name: x, "
		companion  = memory + "template: {containers: [{name: c, image: i, "
		annotation = memory + "template: {annotations: "
		own        = "may mount only nbdexport-run of them, at /run/nbdexport, where nothing else can be mounted"
	)
	many := strings.TrimSuffix(strings.Repeat(strings.Repeat("x", 1024)+", ", 17), ", ")
	for _, c := range []struct {
		name, spec string
		want       []string
	}{
		{"claim elsewhere", claim + "{claimName: other/disk}}}]", []string{"spec.volumes[0].source.persistentVolumeClaim.claimName", "should match"}},
		{"claim upwards", claim + "{claimName: ..}}}]", []string{"spec.volumes[0].source.persistentVolumeClaim.claimName", "should match"}},
		{"claim in capitals", claim + "{claimName: Disk_1}}}]", []string{"spec.volumes[0].source.persistentVolumeClaim.claimName", "should match"}},
		{"path with a zero", claim + `{claimName: disk, path: "a\0b"}}}]`, []string{"spec.volumes[0].source.persistentVolumeClaim.path", "a colon or a control character"}},
		{"path of two lines", claim + `{claimName: disk, path: "a\nb"}}}]`, []string{"spec.volumes[0].source.persistentVolumeClaim.path", "a colon or a control character"}},
		{"path with a colon", claim + `{claimName: disk, path: "memory:1"}}}]`, []string{"spec.volumes[0].source.persistentVolumeClaim.path", "a colon or a control character"}},
		{"size below zero", strings.Replace(memory, "1Mi", "-1Mi", 1), []string{"spec.volumes[0].source.memory.size", "above zero"}},
		{"size of eight exbibytes", strings.Replace(memory, "1Mi", "8Ei", 1), []string{"spec.volumes[0].source.memory.size", "at most 1Pi"}},
		{"size too large", strings.Replace(memory, "1Mi", "1025Ti", 1), []string{"spec.volumes[0].source.memory.size", "at most 1Pi"}},
		{"size with a fraction of its unit", strings.Replace(memory, "1Mi", "1.5Gi", 1), []string{"spec.volumes[0].source.memory.size", "whole number of bytes", "such as 1536Mi"}},
		{"rate too large", memory + "limits: {bytesPerSecond: 1025Ti}", []string{"spec.limits.bytesPerSecond", "at most 1Pi"}},
		{"rate below zero", memory + "limits: {bytesPerSecond: -1}", []string{"spec.limits.bytesPerSecond", "above zero"}},

		{"pod elsewhere", when + "podDeleted: {name: other/vm}}]", []string{"spec.exitWhen[0].podDeleted.name", "should match"}},
		{"object elsewhere", when + "objectCondition: {apiVersion: v1, kind: Pod, name: vm/log, condition: Ready}}]", []string{"spec.exitWhen[0].objectCondition.name", "should match"}},
		{"object by an escape", when + "objectCondition: {apiVersion: v1, kind: Pod, name: vm%2flog, condition: Ready}}]", []string{"spec.exitWhen[0].objectCondition.name", "should match"}},
		{"object upwards", when + "objectCondition: {apiVersion: v1, kind: Pod, name: .., condition: Ready}}]", []string{"spec.exitWhen[0].objectCondition.name", "should match"}},
		{"a Secret", when + "objectCondition: {apiVersion: v1, kind: Secret, name: own, condition: Ready}}]",
			[]string{"spec.exitWhen[0].objectCondition.kind", "Secrets are only read for TLS: name an object of another kind"}},
		{"process of nobody", when + "processExited: {name: qemu-kvm}}]", []string{"spec.exitWhen", "processExited is about the containers of the template, and there are none: put the one in whose process it is"}},
		{"sentinel with a zero", when + `fileCreated: {path: "/run/nbdexport/a\0b"}}]`, []string{"spec.exitWhen[0].fileCreated.path", "must not contain a control character"}},
		{"sentinel elsewhere", when + `fileDeleted: {path: "/tmp/\0"}}]`, []string{"spec.exitWhen[0].fileDeleted.path", "must lie beneath /run/nbdexport/", "must not contain a control character"}},
		{"sentinel that is the server's", when + "fileDeleted: {path: /run/nbdexport/report.json}}]", []string{"spec.exitWhen[0].fileDeleted.path", "the server's own"}},
		{"pipe elsewhere", when + `pipeClosed: {path: "/tmp/\0"}}]`, []string{"spec.exitWhen[0].pipeClosed.path", "must lie beneath /run/nbdexport/", "must not contain a control character"}},
		{"pipe that is the server's", when + "pipeClosed: {path: /run/nbdexport/control.sock}}]", []string{"spec.exitWhen[0].pipeClosed.path", "the server's own"}},
		{"script of nothing", when + `script: {command: [""]}}]`, []string{"spec.exitWhen[0].script.command", "must begin with a program"}},
		{"script that no kernel starts", when + "script: {command: [" + many + "]}}]", []string{"spec.exitWhen[0].script.command", "at most 16384 characters together"}},
		{"deadline before time began", when + `deadline: {time: "0000-01-01T00:00:00+10:00"}}]`, []string{"spec.exitWhen[0].deadline.time", "from 1970 to 9999 in UTC"}},
		{"deadline in the year 10000", when + `deadline: {time: "9999-12-31T23:59:59-10:00"}}]`, []string{"spec.exitWhen[0].deadline.time", "from 1970 to 9999 in UTC"}},

		{"companion that ends", companion + "restartPolicy: Never}]}", []string{"spec.template.containers", "always started again: leave restartPolicy and restartPolicyRules out"}},
		{"companion that starts the server anew", companion + "restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [1]}}]}]}",
			[]string{"spec.template.containers", "always started again: leave restartPolicy and restartPolicyRules out"}},
		{"companion with the server's key", companion + "volumeMounts: [{name: nbdexport-tls, mountPath: /x}]}]}", []string{"spec.template.containers", own}},
		{"companion with what is exported", companion + "volumeDevices: [{name: nbdexport-claim-0, devicePath: /dev/x}]}]}", []string{"spec.template.containers", own}},
		{"companion that shares nothing", companion + "volumeMounts: [{name: d, mountPath: /run/nbdexport}]}], volumes: [{name: d, emptyDir: {}}]}", []string{"spec.template.containers", own}},
		{"companion with the NBD port", companion + "ports: [{containerPort: 10809}]}]}", []string{"spec.template.containers", "10809 and 10810 are the server's: have the container listen on another one"}},
		{"companion with the probes' port", companion + "ports: [{containerPort: 80}, {containerPort: 10810}]}]}", []string{"spec.template.containers", "10809 and 10810 are the server's"}},
		{"server without AppArmor", annotation + "{container.apparmor.security.beta.kubernetes.io/nbdserver: unconfined}}",
			[]string{"spec.template.annotations", "use securityContext.appArmorProfile of a container of the template"}},
		{"priority of two words", memory + "template: {priorityClassName: very high}", []string{"spec.template.priorityClassName", "should match"}},
		{"pull secret elsewhere", memory + "template: {imagePullSecrets: [{name: other/registry}]}", []string{"spec.template.imagePullSecrets[0].name", "should match"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := create(t, ns, "bad", c.spec)
			if err == nil {
				t.Fatal("was accepted")
			}
			says(t, err.Error(), c.want...)
		})
	}
	// And what is next to them.
	for name, spec := range map[string]string{
		"long-script":  when + "script: {command: [" + strings.TrimSuffix(many, ", "+strings.Repeat("x", 1024)) + "]}}]",
		"never":        when + `deadline: {time: "9999-12-31T23:59:59Z"}}]`,
		"role":         when + "objectCondition: {apiVersion: example.test/v1, kind: Secret, name: 'system:a.b', condition: Ready}}]",
		"large":        strings.Replace(memory, "1Mi", "100Ti", 1) + "limits: {bytesPerSecond: 100T}",
		"scratch":      strings.Replace(memory, "}]", ", access: CopyOnWrite, scratch: {sizeLimit: 1Pi}}]", 1),
		"smallest":     strings.Replace(memory, "1Mi", "1", 1) + "limits: {bytesPerSecond: 1k}",
		"largest":      strings.Replace(memory, "1Mi", "1Pi", 1) + "limits: {bytesPerSecond: 1Pi}",
		"read-only":    companion + "restartPolicy: Always, volumeMounts: [{name: nbdexport-run, mountPath: /run/nbdexport, readOnly: true}], ports: [{containerPort: 10809, protocol: UDP}]}]}",
		"dotted-names": claim + "{claimName: a.b-1}}}]",
	} {
		if err := create(t, ns, name, spec); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
