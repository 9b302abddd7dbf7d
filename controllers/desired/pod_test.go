package desired

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// facts are what the exports in testdata find.
var facts = Facts{
	Image: "example.test/nbdexport:v1",
	Modes: map[string]corev1.PersistentVolumeMode{
		"vm-disk": corev1.PersistentVolumeFilesystem,
		"block":   corev1.PersistentVolumeBlock,
		// Temporary claims.
		TemporaryClaimName("monday", "root"): corev1.PersistentVolumeFilesystem,
		TemporaryClaimName("monday", "data"): corev1.PersistentVolumeBlock,
	},
}

func TestPod(t *testing.T) {
	for _, name := range exports(t) {
		t.Run(name, func(t *testing.T) {
			pod, err := Pod(export(t, name), facts)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".pod", pod)
		})
	}
}

// TestPodFollows makes a pod whose claim is in use on a node.
func TestPodFollows(t *testing.T) {
	f := facts
	f.Node = "node-7"
	f.Tolerations = []corev1.Toleration{
		{Key: "vm-nodes", Operator: corev1.TolerationOpExists},
		{Key: "vm-nodes", Operator: corev1.TolerationOpExists},
	}
	pod, err := Pod(export(t, "vm-disk"), f)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "follows.pod", pod)
}

// TestArgsArriveLiterally does with the arguments in a pod what the kubelet does, and
// compares what the server then gets with what it is meant to get.
func TestArgsArriveLiterally(t *testing.T) {
	dollars := 0
	for _, name := range exports(t) {
		e := export(t, name)
		pod, err := Pod(e, facts)
		if err != nil {
			t.Fatal(err)
		}
		want := args(e, facts.Modes)
		got := pod.Spec.Containers[0].Args
		if len(got) != len(want) {
			t.Fatalf("%s: %d arguments, want %d", name, len(got), len(want))
		}
		for i := range want {
			dollars += strings.Count(want[i], "$")
			if arrives := expand(got[i]); arrives != want[i] {
				t.Errorf("%s: %q arrives as %q, want %q", name, got[i], arrives, want[i])
			}
		}
	}
	if dollars == 0 {
		t.Error("no argument in testdata has a dollar sign")
	}
}

// expand replaces what the kubelet replaces in an argument: "$$" is a dollar sign,
// "$(NAME)" the value of a variable. All that is between the brackets counts
// as a name, and all variables are set here.
func expand(arg string) string {
	return regexp.MustCompile(`\$\$|\$\([^)]*\)`).ReplaceAllStringFunc(arg, func(s string) string {
		if s == "$$" {
			return "$"
		}
		return "VALUE"
	})
}

// TestPodIsRestricted checks every pod in testdata against the Pod Security
// Standard "restricted", and for what the design promises beyond it.
func TestPodIsRestricted(t *testing.T) {
	for _, name := range exports(t) {
		t.Run(name, func(t *testing.T) {
			e := export(t, name)
			ac, err := Pod(e, facts)
			if err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(ac)
			if err != nil {
				t.Fatal(err)
			}
			var pod corev1.Pod
			if err := json.Unmarshal(b, &pod); err != nil {
				t.Fatal(err)
			}
			s := pod.Spec
			if s.AutomountServiceAccountToken == nil || *s.AutomountServiceAccountToken {
				t.Error("a token is mounted")
			}
			if c := s.SecurityContext; !*c.RunAsNonRoot || c.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault || *c.RunAsUser == 0 {
				t.Errorf("security context of the pod: %+v", c)
			}
			if want := int64(e.Spec.Drain.GetTimeoutSeconds()); *s.TerminationGracePeriodSeconds <= want {
				t.Errorf("the kubelet kills after %d s, the server needs %d s", *s.TerminationGracePeriodSeconds, want)
			}
			if shared := s.ShareProcessNamespace != nil; shared != (name == "everything") {
				t.Errorf("containers see each other's processes: %v", shared)
			}
			for _, c := range append(s.InitContainers, s.Containers...) {
				sc := c.SecurityContext
				if sc == nil || sc.AllowPrivilegeEscalation == nil || *sc.AllowPrivilegeEscalation || sc.Capabilities == nil || !slices.Contains(sc.Capabilities.Drop, "ALL") {
					t.Errorf("%s: security context %+v", c.Name, sc)
				}
				if !mounts(c, v1alpha1.RunDir) {
					t.Errorf("%s: %s isn't mounted", c.Name, v1alpha1.RunDir)
				}
			}
			if c := s.Containers[0]; !*c.SecurityContext.ReadOnlyRootFilesystem || c.LivenessProbe != nil {
				t.Errorf("%s: %+v", c.Name, c)
			}
		})
	}
}
