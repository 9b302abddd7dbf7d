package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestSamplesHaveEveryCondition looks for a sample of each kind of exit condition, and
// whether all of them but one have TLS.
func TestSamplesHaveEveryCondition(t *testing.T) {
	files, err := filepath.Glob("samples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var sample struct {
			Spec struct {
				ExitWhen []map[string]any
				TLS      struct{ Mode string }
			}
		}
		if err := yaml.Unmarshal(text, &sample); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if clear := sample.Spec.TLS.Mode == string(v1alpha1.TLSDisabled); clear != (filepath.Base(file) == "no-tls.yaml") {
			t.Errorf("%s is served in the clear: %v", file, clear)
		}
		for _, c := range sample.Spec.ExitWhen {
			for kind := range c {
				used[kind] = true
			}
		}
	}
	for f := range reflect.TypeFor[v1alpha1.ExitCondition]().Fields() {
		if kind, _, _ := strings.Cut(f.Tag.Get("json"), ","); !used[kind] {
			t.Errorf("no sample has the exit condition %s", kind)
		}
	}
}
