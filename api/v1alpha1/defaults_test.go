package v1alpha1

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestDefaults compares what optional fields are that aren't set with the defaults of
// the schema, in structs that are there and that aren't.
func TestDefaults(t *testing.T) {
	text, err := os.ReadFile("../../config/crd/nbdexport.io_nbdexports.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct{ OpenAPIV3Schema node }
			}
		}
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	crd.Spec.Versions[0].Schema.OpenAPIV3Schema.defaults("", want)
	for name, s := range map[string]NBDExportSpec{
		"absent": {},
		"empty":  {Drain: &Drain{}, TLS: &TLS{}, Service: &Service{}, NetworkPolicy: &NetworkPolicy{}},
	} {
		got := map[string]any{
			".spec.drain.policy":                         s.Drain.GetPolicy(),
			".spec.drain.timeoutSeconds":                 s.Drain.GetTimeoutSeconds(),
			".spec.exitWhen.lastClientLeft.graceSeconds": LastClientLeft{}.GetGraceSeconds(),
			".spec.exitWhen.objectCondition.status":      ObjectCondition{}.GetStatus(),
			".spec.exitWhen.script.timeoutSeconds":       Script{}.GetTimeoutSeconds(),
			".spec.networkPolicy.mode":                   s.NetworkPolicy.GetMode(),
			".spec.pollSeconds":                          s.GetPollSeconds(),
			".spec.service.port":                         s.Service.GetPort(),
			".spec.service.type":                         s.Service.GetType(),
			".spec.tls.clientAuth":                       s.TLS.GetClientAuth(),
			".spec.tls.mode":                             map[bool]TLSMode{true: TLSRequired, false: TLSDisabled}[s.TLS.Enabled()],
			".spec.volumes.access":                       Volume{}.GetAccess(),
			".spec.volumes.format":                       Volume{}.GetFormat(),
		}
		for field, def := range want {
			if fmt.Sprint(got[field]) != def {
				t.Errorf("%s, its struct %s: %v, in the schema %s", field, name, got[field], def)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d fields have defaults, in the schema %d", len(got), len(want))
		}
	}
}

// node is what matters here of a JSON schema.
type node struct {
	Default    any
	Properties map[string]node
	Items      *node
}

// defaults collects those of single values, by their paths, without the types of
// Kubernetes' own.
func (s node) defaults(path string, out map[string]string) {
	if _, isStruct := s.Default.(map[string]any); s.Default != nil && !isStruct {
		out[path] = fmt.Sprint(s.Default)
	}
	if s.Items != nil {
		s.Items.defaults(path, out)
	}
	for name, p := range s.Properties {
		if !strings.HasPrefix(path+"."+name, ".spec.template.") {
			p.defaults(path+"."+name, out)
		}
	}
}
