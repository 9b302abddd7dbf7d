package controller_test

import (
	"context"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// accepted is the smallest spec with one of everything that a case below spoils.
const accepted = `
volumes:
- name: disk
  source: {persistentVolumeClaim: {claimName: vm-disk, path: images/disk.raw}}
- name: scratch
  source: {memory: {size: 1Mi}}
  access: ReadWrite
- name: copy
  source: {persistentVolumeClaim: {claimName: golden}}
  access: CopyOnWrite
  scratch: {sizeLimit: 10Gi}
exitWhen:
- name: vm-gone
  podDeleted: {name: vm}
- name: stop
  fileCreated: {path: /run/nbdexport/stop}
- name: asked
  script: {command: [/bin/true]}
- name: left
  lastClientLeft: {}
- name: quiet
  idle: {seconds: 60}
- name: over
  deadline: {seconds: 3600}
- name: done
  objectCondition: {apiVersion: batch/v1, kind: Job, name: backup, condition: Complete}
drain: {timeoutSeconds: 60}
tls: {mode: Disabled}
networkPolicy: {from: [{podSelector: {}}]}
limits: {connections: 4, connectionsPerClient: 2, bytesPerSecond: 10Mi, allowedClientCIDRs: [10.0.0.0/8]}
template:
  containers:
  - {name: companion, image: example.test/companion}
  volumes:
  - {name: data, emptyDir: {}}
`

// TestAdmission applies objects that the API server has to refuse, and reads
// whether its message names the field and says what is wrong.
func TestAdmission(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	cases := []struct {
		name, old, new string
		want           []string
	}{
		{"two sources", "memory: {size: 1Mi}", "memory: {size: 1Mi}, persistentVolumeClaim: {claimName: x}",
			[]string{"spec.volumes[1].source", "exactly one of the fields in [persistentVolumeClaim volumeSnapshot memory] must be set"}},
		{"no source", "{memory: {size: 1Mi}}", "{}",
			[]string{"spec.volumes[1].source", "exactly one of the fields in [persistentVolumeClaim volumeSnapshot memory] must be set"}},
		{"source missing", "source: {memory: {size: 1Mi}}", "",
			[]string{"spec.volumes[1].source: Required value"}},
		{"unknown access", "access: ReadWrite", "access: WriteOnly",
			[]string{"spec.volumes[1].access", `"WriteOnly"`, `"ReadOnly", "ReadWrite", "CopyOnWrite"`}},
		{"copy without a scratch", "\n  scratch: {sizeLimit: 10Gi}", "",
			[]string{"spec.volumes[2].scratch", "access CopyOnWrite, which needs it", "such as scratch: {sizeLimit: 10Gi}"}},
		{"scratch without a copy", "access: CopyOnWrite", "access: ReadOnly", []string{"spec.volumes[2].scratch", "scratch goes with access CopyOnWrite"}},
		{"scratch of nothing", "{sizeLimit: 10Gi}", "{}", []string{"spec.volumes[2].scratch.sizeLimit: Required value"}},
		{"scratch too small", "sizeLimit: 10Gi", "sizeLimit: 65535", []string{"spec.volumes[2].scratch.sizeLimit", "from 64Ki to 1Pi"}},
		{"scratch too large", "sizeLimit: 10Gi", "sizeLimit: 1025Ti", []string{"spec.volumes[2].scratch.sizeLimit", "from 64Ki to 1Pi"}},
		{"scratch of a fraction", "sizeLimit: 10Gi", "sizeLimit: \"100000.5\"", []string{"spec.volumes[2].scratch.sizeLimit", "whole number of bytes"}},
		{"scratch no number", "sizeLimit: 10Gi", "sizeLimit: much", []string{"spec.volumes[2].scratch.sizeLimit"}},
		{"unknown policy", "timeoutSeconds: 60", "policy: Wait",
			[]string{"spec.drain.policy", `"Wait"`, `"Refuse", "Disconnect"`}},
		{"unknown field", "drain: {", "drein: {}\ndrain: {", []string{`unknown field "spec.drein"`}},
		{"volumes missing", "volumes:\n- name: disk\n  source: {persistentVolumeClaim: {claimName: vm-disk, path: images/disk.raw}}\n- name: scratch\n  source: {memory: {size: 1Mi}}\n  access: ReadWrite\n- name: copy\n  source: {persistentVolumeClaim: {claimName: golden}}\n  access: CopyOnWrite\n  scratch: {sizeLimit: 10Gi}\n", "",
			[]string{"spec.volumes: Required value"}},
		{"volumes empty", "volumes:\n- name: disk\n  source: {persistentVolumeClaim: {claimName: vm-disk, path: images/disk.raw}}\n- name: scratch\n  source: {memory: {size: 1Mi}}\n  access: ReadWrite\n- name: copy\n  source: {persistentVolumeClaim: {claimName: golden}}\n  access: CopyOnWrite\n  scratch: {sizeLimit: 10Gi}\n", "volumes: []\n",
			[]string{"spec.volumes", "should have at least 1 items"}},
		{"volume listed twice", "name: scratch", "name: disk",
			[]string{"spec.volumes[1]: Duplicate value"}},
		{"volume name", "name: scratch", "name: Scratch_1",
			[]string{"spec.volumes[1].name", "should match"}},
		{"absolute path", "images/disk.raw", "/etc/passwd",
			[]string{"spec.volumes[0].source.persistentVolumeClaim.path", "relative to the root of the claim"}},
		{"path upwards", "images/disk.raw", "images/../../disk.raw",
			[]string{"spec.volumes[0].source.persistentVolumeClaim.path", "relative to the root of the claim"}},
		{"path ends in a slash", "images/disk.raw", "images/", []string{"spec.volumes[0].source.persistentVolumeClaim.path", "write it as images/disk.img"}},
		{"path with an empty part", "images/disk.raw", "images//disk.raw", []string{"spec.volumes[0].source.persistentVolumeClaim.path", "write it as images/disk.img"}},
		{"path with a dot", "images/disk.raw", "images/./disk.raw", []string{"spec.volumes[0].source.persistentVolumeClaim.path", "write it as images/disk.img"}},
		{"path begins with a dot", "images/disk.raw", "./disk.raw", []string{"spec.volumes[0].source.persistentVolumeClaim.path", "write it as images/disk.img"}},
		{"path is a dot", "images/disk.raw", ".", []string{"spec.volumes[0].source.persistentVolumeClaim.path", "write it as images/disk.img"}},
		{"path is two dots", "images/disk.raw", "..", []string{"spec.volumes[0].source.persistentVolumeClaim.path", "write it as images/disk.img"}},
		{"path is a slash", "images/disk.raw", "/", []string{"spec.volumes[0].source.persistentVolumeClaim.path", "write it as images/disk.img"}},
		{"path with comma", "images/disk.raw", `"disk.raw,access=read-write"`,
			[]string{"spec.volumes[0].source.persistentVolumeClaim.path", "a comma, a colon"}},
		{"size zero", "size: 1Mi", "size: 0", []string{"spec.volumes[1].source.memory.size", "above zero"}},
		{"size fraction", "size: 1Mi", "size: \"1.5\"", []string{"spec.volumes[1].source.memory.size", "whole number of bytes"}},
		{"size no number", "size: 1Mi", "size: big", []string{"spec.volumes[1].source.memory.size"}},
		{"tls now and then", "mode: Disabled", "mode: Optional",
			[]string{"spec.tls.mode", `"Optional"`, `"Required", "Disabled"`}},
		{"no clients verified without TLS", "mode: Disabled", "mode: Disabled, clientAuth: None",
			[]string{"spec.tls.clientAuth", "without TLS no client is asked for a certificate: leave clientAuth out, or set mode to Required"}},
		{"certificates without TLS", "mode: Disabled", "mode: Disabled, secretRef: {name: own}",
			[]string{"spec.tls.secretRef", "without TLS there are no certificates: leave secretRef out, or set mode to Required"}},
		{"clients verified now and then", "mode: Disabled", "clientAuth: Optional",
			[]string{"spec.tls.clientAuth", `"Optional"`, `"Required", "None"`}},
		{"a Secret without a name", "mode: Disabled", "secretRef: {}", []string{"spec.tls.secretRef.name: Required value"}},
		{"a Secret elsewhere", "mode: Disabled", "secretRef: {name: other/own}", []string{"spec.tls.secretRef.name", "should match"}},
		{"a Secret in capitals", "mode: Disabled", "secretRef: {name: Own}", []string{"spec.tls.secretRef.name", "should match"}},
		{"two kinds of condition", "fileCreated: {path: /run/nbdexport/stop}", "fileCreated: {path: /run/nbdexport/stop}\n  podDeleted: {name: vm}",
			[]string{"spec.exitWhen[1]", "exactly one of the fields in [podDeleted fileCreated fileDeleted pipeClosed processExited script lastClientLeft idle deadline objectCondition] must be set"}},
		{"pod by name and selector", "podDeleted: {name: vm}", "podDeleted: {name: vm, selector: {matchLabels: {a: b}}}",
			[]string{"spec.exitWhen[0].podDeleted", "exactly one of the fields in [name selector] must be set"}},
		{"no pod", "podDeleted: {name: vm}", "podDeleted: {}",
			[]string{"spec.exitWhen[0].podDeleted", "exactly one of the fields in [name selector] must be set"}},
		{"any pod", "podDeleted: {name: vm}", "podDeleted: {selector: {matchLabels: {}}}",
			[]string{"spec.exitWhen[0].podDeleted.selector", "selector must not be empty"}},
		{"no kind of condition", "\n  fileCreated: {path: /run/nbdexport/stop}", "",
			[]string{"spec.exitWhen[1]", "exactly one of the fields in"}},
		{"sentinel elsewhere", "/run/nbdexport/stop", "/tmp/nbdexport/stop-here",
			[]string{"spec.exitWhen[1].fileCreated.path", "beneath /run/nbdexport/"}},
		{"sentinel upwards", "/run/nbdexport/stop", "/run/nbdexport/../stop",
			[]string{"spec.exitWhen[1].fileCreated.path", "beneath /run/nbdexport/"}},
		{"sentinel is the directory", "/run/nbdexport/stop", "/run/nbdexport/",
			[]string{"spec.exitWhen[1].fileCreated.path", "beneath /run/nbdexport/"}},
		{"sentinel ends in a slash", "/run/nbdexport/stop", "/run/nbdexport/stop/",
			[]string{"spec.exitWhen[1].fileCreated.path", "write it as /run/nbdexport/stop"}},
		{"sentinel is the report, with an empty part", "/run/nbdexport/stop", "/run/nbdexport//report.json",
			[]string{"spec.exitWhen[1].fileCreated.path", "write it as /run/nbdexport/stop"}},
		{"sentinel is the control socket, with a dot", "/run/nbdexport/stop", "/run/nbdexport/./control.sock",
			[]string{"spec.exitWhen[1].fileCreated.path", "write it as /run/nbdexport/stop"}},
		{"sentinel is the report, by a detour", "/run/nbdexport/stop", "/run/nbdexport/x/../report.json",
			[]string{"spec.exitWhen[1].fileCreated.path", "write it as /run/nbdexport/stop"}},
		{"sentinel ends in a dot", "/run/nbdexport/stop", "/run/nbdexport/stop/.",
			[]string{"spec.exitWhen[1].fileCreated.path", "write it as /run/nbdexport/stop"}},
		{"sentinel is the report", "/run/nbdexport/stop", "/run/nbdexport/report.json",
			[]string{"spec.exitWhen[1].fileCreated.path", "the server's own"}},
		{"script without command", "command: [/bin/true]", "command: []",
			[]string{"spec.exitWhen[2].script.command", "at least 1 items"}},
		{"grace below zero", "lastClientLeft: {}", "lastClientLeft: {graceSeconds: -1}",
			[]string{"spec.exitWhen[3].lastClientLeft.graceSeconds", "greater than or equal to 0"}},
		{"idle without seconds", "idle: {seconds: 60}", "idle: {}", []string{"spec.exitWhen[4].idle.seconds: Required value"}},
		{"idle at once", "idle: {seconds: 60}", "idle: {seconds: 0}", []string{"spec.exitWhen[4].idle.seconds", "greater than or equal to 1"}},
		{"no deadline", "deadline: {seconds: 3600}", "deadline: {}",
			[]string{"spec.exitWhen[5].deadline", "exactly one of the fields in [seconds time] must be set"}},
		{"two deadlines", "deadline: {seconds: 3600}", "deadline: {seconds: 3600, time: \"2026-01-31T18:30:00Z\"}",
			[]string{"spec.exitWhen[5].deadline", "exactly one of the fields in [seconds time] must be set"}},
		{"deadline after years", "deadline: {seconds: 3600}", "deadline: {seconds: 31536001}",
			[]string{"spec.exitWhen[5].deadline.seconds", "less than or equal to 31536000"}},
		{"deadline at no time", "deadline: {seconds: 3600}", "deadline: {time: tomorrow}",
			[]string{"spec.exitWhen[5].deadline.time", "date-time"}},
		// What the API server takes for a time and Go doesn't would keep the operator from
		// reading any export at all.
		{"deadline in small letters", "deadline: {seconds: 3600}", "deadline: {time: \"2026-01-31t18:30:00z\"}",
			[]string{"spec.exitWhen[5].deadline.time", "should match"}},
		{"deadline far from UTC", "deadline: {seconds: 3600}", "deadline: {time: \"2026-01-31T18:30:00+99:00\"}",
			[]string{"spec.exitWhen[5].deadline.time", "should match"}},
		{"deadline without a date", "deadline: {seconds: 3600}", "deadline: {time: \"2026-02-30T18:30:00Z\"}",
			[]string{"spec.exitWhen[5].deadline.time", "date-time"}},
		{"object without a kind", "kind: Job, ", "", []string{"spec.exitWhen[6].objectCondition.kind: Required value"}},
		{"object of a resource", "kind: Job", "kind: jobs", []string{"spec.exitWhen[6].objectCondition.kind", "should match"}},
		{"object of no version", "apiVersion: batch/v1", "apiVersion: batch", []string{"spec.exitWhen[6].objectCondition.apiVersion", "should match"}},
		{"object without a name", "name: backup, ", "", []string{"spec.exitWhen[6].objectCondition.name: Required value"}},
		{"object without a condition", ", condition: Complete", "", []string{"spec.exitWhen[6].objectCondition.condition: Required value"}},
		{"condition is maybe", "condition: Complete", "condition: Complete, status: Maybe",
			[]string{"spec.exitWhen[6].objectCondition.status", `"Maybe"`, `"True", "False", "Unknown"`}},
		{"grace beyond timeout", "timeoutSeconds: 60", "timeoutSeconds: 60, graceSeconds: 61",
			[]string{"spec.drain.graceSeconds", "graceSeconds must not be longer than timeoutSeconds"}},
		{"grace beyond default timeout", "timeoutSeconds: 60", "graceSeconds: 601",
			[]string{"spec.drain.graceSeconds", "graceSeconds must not be longer than timeoutSeconds"}},
		{"timeout zero", "timeoutSeconds: 60", "timeoutSeconds: 0", []string{"spec.drain.timeoutSeconds", "greater than or equal to 1"}},
		{"poll zero", "drain:", "pollSeconds: 0\ndrain:", []string{"spec.pollSeconds", "greater than or equal to 1"}},
		{"port", "drain:", "service: {port: 65536}\ndrain:", []string{"spec.service.port", "less than or equal to 65535"}},
		{"no peers", "from: [{podSelector: {}}]", "from: []", []string{"spec.networkPolicy.from", "at least 1 items"}},
		{"peers of no NetworkPolicy", "networkPolicy: {", "networkPolicy: {mode: None, ",
			[]string{"spec.networkPolicy.from", "leave it out, or set mode to Managed"}},
		{"no connection", "connections: 4", "connections: 0", []string{"spec.limits.connections", "greater than or equal to 1"}},
		{"no connection for a client", "connectionsPerClient: 2", "connectionsPerClient: 0",
			[]string{"spec.limits.connectionsPerClient", "greater than or equal to 1"}},
		{"rate zero", "bytesPerSecond: 10Mi", "bytesPerSecond: 0", []string{"spec.limits.bytesPerSecond", "above zero"}},
		{"rate fraction", "bytesPerSecond: 10Mi", "bytesPerSecond: 100m", []string{"spec.limits.bytesPerSecond", "whole number of bytes"}},
		{"nobody allowed", "[10.0.0.0/8]", "[]", []string{"spec.limits.allowedClientCIDRs", "at least 1 items"}},
		{"an address", "[10.0.0.0/8]", "[10.0.0.1]", []string{"spec.limits.allowedClientCIDRs[0]", "such as 10.0.0.0/8, 192.0.2.1/32"}},
		{"a word", "[10.0.0.0/8]", "[all]", []string{"spec.limits.allowedClientCIDRs[0]", "range of addresses"}},
		{"IPv4 in IPv6", "[10.0.0.0/8]", `["::ffff:10.0.0.0/100"]`, []string{"spec.limits.allowedClientCIDRs[0]", "range of addresses"}},
		{"a range twice", "[10.0.0.0/8]", "[10.0.0.0/8, 10.0.0.0/8]", []string{"spec.limits.allowedClientCIDRs[1]", "Duplicate value"}},
		{"kept for less than no time", "drain:", "ttlSecondsAfterFinished: -1\ndrain:", []string{"spec.ttlSecondsAfterFinished", "greater than or equal to 0"}},
		{"container name taken", "name: companion", "name: nbdserver",
			[]string{"spec.template.containers", "the container name nbdserver is taken by the server"}},
		{"volume name taken", "name: data", "name: nbdexport-run",
			[]string{"spec.template.volumes", "begin with nbdexport-"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if strings.Count(accepted, c.old) != 1 {
				t.Fatalf("%q isn't there exactly once to be replaced", c.old)
			}
			err := create(t, ns, "bad", strings.Replace(accepted, c.old, c.new, 1))
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

// TestPathsWithDots applies paths that look like those above and aren't.
func TestPathsWithDots(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	for name, change := range map[string][2]string{
		"hidden-disk":     {"images/disk.raw", ".images/.disk..raw"},
		"three-dots":      {"images/disk.raw", ".../disk.raw."},
		"hidden-sentinel": {"/run/nbdexport/stop", "/run/nbdexport/.d/...stop"},
	} {
		if err := create(t, ns, name, strings.Replace(accepted, change[0], change[1], 1)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDefaults reads back what the API server fills in.
func TestDefaults(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	if err := create(t, ns, "good", accepted); err != nil {
		t.Fatal(err)
	}
	var e v1alpha1.NBDExport
	get(t, client.ObjectKey{Namespace: ns, Name: "good"}, &e)
	s := e.Spec
	if ptr.Deref(s.PollSeconds, 0) != 60 || ptr.Deref(s.Drain.TimeoutSeconds, 0) != 60 || s.Drain.GraceSeconds != nil || ptr.Deref(s.Drain.Policy, "") != v1alpha1.DrainRefuse ||
		ptr.Deref(s.Service.Port, 0) != 10809 || ptr.Deref(s.Volumes[0].Access, "") != v1alpha1.ReadOnly || ptr.Deref(s.ExitWhen[2].Script.TimeoutSeconds, 0) != 30 ||
		ptr.Deref(s.ExitWhen[3].LastClientLeft.GraceSeconds, -1) != 0 || ptr.Deref(s.ExitWhen[6].ObjectCondition.Status, "") != metav1.ConditionTrue {
		t.Errorf("defaults: %+v", s)
	}
	if want := (v1alpha1.TLS{Mode: ptr.To(v1alpha1.TLSDisabled), ClientAuth: ptr.To(v1alpha1.ClientAuthRequired)}); !equality.Semantic.DeepEqual(*s.TLS, want) {
		t.Errorf("defaults without TLS: %+v", s.TLS)
	}
	for name, tls := range map[string]string{"unsaid": "", "empty": "tls: {}", "own": "tls: {secretRef: {name: own.example}}"} {
		if err := create(t, ns, name, strings.Replace(accepted, "tls: {mode: Disabled}", tls, 1)); err != nil {
			t.Fatal(err)
		}
		get(t, client.ObjectKey{Namespace: ns, Name: name}, &e)
		if ptr.Deref(e.Spec.TLS.Mode, "") != v1alpha1.TLSRequired || ptr.Deref(e.Spec.TLS.ClientAuth, "") != v1alpha1.ClientAuthRequired {
			t.Errorf("defaults, %s: %+v", name, e.Spec.TLS)
		}
	}
}

// create applies a spec in YAML with strict validation, as kubectl does.
func create(t *testing.T, ns, name, spec string) error {
	t.Helper()
	var fields map[string]any
	if err := yaml.Unmarshal([]byte(spec), &fields); err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: map[string]any{"spec": fields}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("NBDExport"))
	u.SetNamespace(ns)
	u.SetName(name)
	return client.WithFieldValidation(kube, "Strict").Create(context.Background(), u)
}
