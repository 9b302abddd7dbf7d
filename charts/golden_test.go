package charts_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the expected manifests anew")

// TestGolden renders the chart with each of the values in testdata.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.values.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no values in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".values.yaml"), func(t *testing.T) {
			values, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := shorten(render(t, string(values)))
			golden := strings.TrimSuffix(file, ".values.yaml") + ".yaml"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("what helm renders with %s has changed; if that was intended: go test ./charts -update\n%s", file, diff)
			}
		})
	}
}

// shorten takes out what is long and stands elsewhere: the CRD's spec and the rules
// of the manager's role, which are generated, the dashboard, the alerts.
func shorten(manifest string) string {
	docs := strings.Split(manifest, "\n---\n")
	for i, doc := range docs {
		for file, field := range map[string]string{"crd": "\nspec:\n", "role": "\nrules:\n", "dashboard": "\ndata:\n", "prometheusrule": "\nspec:\n"} {
			if j := strings.Index(doc, field); j >= 0 && strings.Contains(doc, "# Source: nbdexport/templates/"+file+".yaml\n") {
				docs[i] = doc[:j+len(field)] + "  # ...\n"
			}
		}
	}
	return strings.Join(docs, "\n---\n")
}

// TestNamespacedIsNamespaced: with the values of its golden file, nothing is
// made outside of namespaces. A namespace's administrator can install it.
func TestNamespacedIsNamespaced(t *testing.T) {
	values, err := os.ReadFile("testdata/namespaced.values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects := parse(t, render(t, string(values)))
	roles := 0
	for key, o := range objects {
		if o.at("metadata.namespace") == nil {
			t.Errorf("%s is in no namespace", key)
		}
		if o.at("kind") == "Role" {
			roles++
		}
	}
	// One for leader election, and one in each of two namespaces.
	if roles != 3 {
		t.Errorf("%d Roles, not 3", roles)
	}
}

// TestLongNames: what is made of the longest name of a release is still a name.
func TestLongNames(t *testing.T) {
	out, err := run("template", strings.Repeat("a.b", 17)+"cd", chart, "--set=test.clientImage=client")
	if err != nil {
		t.Fatal(err)
	}
	for key, o := range parse(t, out) {
		name := o.at("metadata.name").(string)
		if o.at("kind") == "CustomResourceDefinition" {
			continue
		}
		if len(name) > 63 || strings.Contains(name, ".") {
			t.Errorf("%s has a name of %d characters, or with dots", key, len(name))
		}
		// The pod and the Service of the test's export have four more.
		if o.at("kind") == "NBDExport" && len(name) > 59 {
			t.Errorf("%s has a name of %d characters", key, len(name))
		}
	}
}

func TestLint(t *testing.T) {
	for _, values := range []string{"default", "namespaced", "everything"} {
		if out, err := run("lint", "--strict", "--values=testdata/"+values+".values.yaml", chart); err != nil {
			t.Errorf("%s: %v\n%s", values, err, out)
		}
	}
}
