package controller_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// TestExamplesOfTheGuides makes what the README and the guides show as YAML, with strict
// validation. A cert-manager Certificate, whose kind isn't there, must be for the Secret
// and the Service of the export beside it.
func TestExamplesOfTheGuides(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	files, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")
	made := 0
	for _, file := range append(files, filepath.Join("..", "..", "README.md")) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range block.FindAllStringSubmatch(string(text), -1) {
			var names []string
			var secret string
			for doc := range strings.SplitSeq(m[1], "\n---\n") {
				var u unstructured.Unstructured
				if err := yaml.UnmarshalStrict([]byte(doc), &u.Object); err != nil {
					t.Errorf("%s: %v", file, err)
					continue
				}
				switch u.GetKind() {
				case "Certificate":
					names, _, _ = unstructured.NestedStringSlice(u.Object, "spec", "dnsNames")
					secret, _, _ = unstructured.NestedString(u.Object, "spec", "secretName")
				case "NBDExport":
					made++
					u.SetNamespace(ns)
					if err := client.WithFieldValidation(kube, "Strict").Create(context.Background(), &u); err != nil {
						t.Errorf("%s: %v", file, err)
						continue
					}
					var e v1alpha1.NBDExport
					get(t, client.ObjectKeyFromObject(&u), &e)
					if e.Spec.TLS.SecretRef == nil {
						continue
					}
					// The README's namespace is default.
					host := desired.ChildName(e.Name) + ".default.svc"
					if secret != e.Spec.TLS.SecretRef.Name || !slices.Contains(names, host) {
						t.Errorf("%s: the Certificate is for %q in the Secret %s, the export is %s and wants %s", file, names, secret, host, e.Spec.TLS.SecretRef.Name)
					}
				default:
					if u.GetAPIVersion() != "" {
						t.Errorf("%s has a %s, which nobody looks at", file, u.GetKind())
					}
				}
			}
		}
	}
	if made < 2 {
		t.Errorf("%d examples were found", made)
	}
}
