package desired

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestUndefaulted makes the objects of exports in which nobody has filled in any
// defaults: they are the same.
func TestUndefaulted(t *testing.T) {
	for _, name := range exports(t) {
		t.Run(name, func(t *testing.T) {
			want, got := export(t, name), undefaulted(t, name)
			if diff := cmp.Diff(objects(t, want), objects(t, got)); diff != "" {
				t.Errorf("with (-) and without (+) the defaults filled in:\n%s", diff)
			}
			if uri := URI(got, "a"); uri != URI(want, "a") {
				t.Errorf("URI %s, want %s", uri, URI(want, "a"))
			}
		})
	}
}

// objects are those of an export as YAML, without the stamp, which is of the spec as it is written.
func objects(t *testing.T, e *v1alpha1.NBDExport) map[string]string {
	t.Helper()
	pod, err := Pod(e, facts)
	if err != nil {
		t.Fatal(err)
	}
	delete(pod.Annotations, v1alpha1.AnnotationSpec)
	policy, err := NetworkPolicy(e)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for kind, obj := range map[string]any{"Pod": pod, "Service": Service(e), "ConfigMap": ConfigMap(e), "NetworkPolicy": policy} {
		text, err := yaml.Marshal(obj)
		if err != nil {
			t.Fatal(err)
		}
		out[kind] = string(text)
	}
	return out
}
