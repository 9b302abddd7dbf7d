package desired

import (
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

func TestChildName(t *testing.T) {
	dns1035 := regexp.MustCompile(`^[a-z]([-a-z0-9]*[a-z0-9])?$`)
	seen := map[string]string{}
	for _, name := range []string{
		"a", "vm-disk", "0", "a.b", "a-b", "a.b.c", "a-b.c",
		strings.Repeat("x", 59), strings.Repeat("x", 60), strings.Repeat("x", 63), strings.Repeat("x", 253),
		strings.Repeat("x", 252) + "y",
		// The cut falls on a dash and on a dot.
		strings.Repeat("x", 49) + strings.Repeat("-", 10) + "y", strings.Repeat("x", 49) + ".y-" + strings.Repeat("z", 20),
	} {
		child := ChildName(name)
		if len(child) > 63 || !dns1035.MatchString(child) {
			t.Errorf("%s: %s can't be the name of a Service", name, child)
		}
		if other, ok := seen[child]; ok {
			t.Errorf("%s and %s have the same child %s", name, other, child)
		}
		seen[child] = name
		if child != ChildName(name) {
			t.Errorf("%s: another name at the second time", name)
		}
	}
	for name, want := range map[string]string{
		"vm-disk":               "nbd-vm-disk",
		strings.Repeat("x", 59): "nbd-" + strings.Repeat("x", 59),
		"a.b":                   "nbd-a-b-bf76e0c4",
	} {
		if got := ChildName(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestSecretName(t *testing.T) {
	dns1123 := regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	seen := map[string]bool{v1alpha1.AuthoritySecret: true}
	for _, name := range []string{"a", "a.b", "a-b", "a-server", "a.server", "client", strings.Repeat("x", 52), strings.Repeat("x", 53), strings.Repeat("x", 253)} {
		for _, role := range []string{RoleServer, RoleClient} {
			got := SecretName(name, role)
			if len(got) > 63 || !dns1123.MatchString(got) || !strings.HasPrefix(got, "nbd-") || !strings.HasSuffix(got, "-"+role) {
				t.Errorf("%s: %s can't be the name of a Secret", name, got)
			}
			if seen[got] {
				t.Errorf("%s: %s is taken", name, got)
			}
			seen[got] = true
		}
	}
	if got := SecretName("vm-disk", RoleClient); got != "nbd-vm-disk-client" {
		t.Error(got)
	}
}

func TestLabelValue(t *testing.T) {
	label := regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
	for _, name := range []string{"a", "a.b", strings.Repeat("x", 63), strings.Repeat("x", 64), strings.Repeat("x.", 126) + "x"} {
		v := LabelValue(name)
		if len(v) > 63 || !label.MatchString(v) {
			t.Errorf("%s: %s can't be the value of a label", name, v)
		}
		if len(name) <= 63 && v != name {
			t.Errorf("%s is altered to %s without need", name, v)
		}
	}
}

// TestLabelValuesDiffer finds no export that is called as another one is labelled: the
// Service of one must not lead to the pod of the other. Where two labels have the same
// hash, so have the names.
func TestLabelValuesDiffer(t *testing.T) {
	for _, long := range []string{strings.Repeat("x", 64), strings.Repeat("x.", 126) + "x", strings.Repeat("x", 53) + strings.Repeat("-", 20) + "x"} {
		v, child := LabelValue(long), ChildName(long)
		if problems := validation.IsDNS1123Subdomain(v); len(problems) == 0 {
			t.Errorf("%s is the label of the export %s, and of the one that has that name", v, long)
		}
		if v[len(v)-8:] != child[len(child)-8:] {
			t.Errorf("%s: label %s and name %s have different hashes", long, v, child)
		}
	}
}

func TestURI(t *testing.T) {
	for name, want := range map[string]string{
		"vm-disk": "nbd://nbd-vm-disk.vms.svc:10809/disk",
		"tls":     "nbds://nbd-tls.vms.svc:10809/disk",
	} {
		if got := URI(export(t, name), "disk"); got != want {
			t.Error(got)
		}
	}
}
