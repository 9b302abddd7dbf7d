// Package config_test checks the manifests: that what is generated is up to date,
// that kustomize can build them, and that they hang together.
package config_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// root is the top of the repository.
const root = ".."

// TestGeneratedFilesAreFresh generates once more, to another place, and compares.
func TestGeneratedFilesAreFresh(t *testing.T) {
	dir := t.TempDir()
	command(t, "bash", "hack/generate.sh", dir)
	for _, file := range []string{
		"api/v1alpha1/zz_generated.deepcopy.go",
		"config/crd/nbdexport.io_nbdexports.yaml",
		"config/rbac/role.yaml",
		"docs/api.md",
		"charts/nbdexport/files/crd.yaml",
		"charts/nbdexport/files/role.yaml",
	} {
		want, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s isn't what the code says: run make generate", file)
		}
	}
}

// TestCRDFitsIntoAnAnnotation leaves room below the 262,144 bytes that "kubectl
// apply" may write into an annotation.
func TestCRDFitsIntoAnAnnotation(t *testing.T) {
	text, err := os.ReadFile("crd/nbdexport.io_nbdexports.yaml")
	if err != nil {
		t.Fatal(err)
	}
	long, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, long); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", compact.Len())
	if compact.Len() >= 200<<10 {
		t.Errorf("the CRD has %d bytes", compact.Len())
	}
}

// TestCopyOnWriteStays looks whether the rule against changes of exports with a
// CopyOnWrite volume names every field of the spec but those that change without a new
// pod. The names stand for themselves, so that a new field isn't forgotten.
func TestCopyOnWriteStays(t *testing.T) {
	free := []string{"limits", "networkPolicy", "service", "ttlSecondsAfterFinished"}
	text, err := os.ReadFile("crd/nbdexport.io_nbdexports.yaml")
	if err != nil {
		t.Fatal(err)
	}
	type schema struct {
		Properties   map[string]schema
		Required     []string
		Default      any
		XValidations []struct{ Rule string } `json:"x-kubernetes-validations"`
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema schema `json:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		t.Fatal(err)
	}
	spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	var rule string
	for _, v := range spec.XValidations {
		if strings.Contains(v.Rule, "oldSelf") {
			rule += v.Rule
		}
	}
	for name, p := range spec.Properties {
		compared := strings.Contains(rule, "self."+name+" == oldSelf."+name)
		if name == "exitWhen" { // the operator watches some of it
			compared = strings.Contains(rule, "self.exitWhen.filter(") && strings.Contains(rule, "oldSelf.exitWhen.filter(")
		}
		if !slices.Contains(spec.Required, name) && p.Default == nil {
			compared = compared && strings.Contains(rule, "has(self."+name+")") && strings.Contains(rule, "has(oldSelf."+name+")")
		}
		if want := !slices.Contains(free, name); compared != want {
			t.Errorf("spec.%s can't change: %v, want %v", name, compared, want)
		}
	}
}

// TestSecurityNamesEveryRight looks whether docs/security.md says what each right of
// the manager is for.
func TestSecurityNamesEveryRight(t *testing.T) {
	doc, err := os.ReadFile(root + "/docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"role", "leader_election_role", "metrics_auth_role"} {
		text, err := os.ReadFile("rbac/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		var role rbacv1.Role // a ClusterRole has the same rules
		if err := yaml.Unmarshal(text, &role); err != nil {
			t.Fatal(err)
		}
		for _, rule := range role.Rules {
			for _, resource := range rule.Resources {
				i := bytes.Index(doc, []byte("`"+resource+"`"))
				if i < 0 {
					t.Errorf("docs/security.md doesn't say what %s are for", resource)
					continue
				}
				line := doc[bytes.LastIndexByte(doc[:i], '\n')+1 : i]
				for _, verb := range rule.Verbs {
					if !bytes.Contains(line, []byte(verb)) {
						t.Errorf("docs/security.md: %s of %s is missing", verb, resource)
					}
				}
			}
		}
	}
}

// TestDefaultBuilds builds the whole installation and looks whether export pods
// run the image that the manager runs.
func TestDefaultBuilds(t *testing.T) {
	out := kustomize(t, "config/default")
	kinds := map[string]int{}
	for _, doc := range strings.Split(out, "\n---\n") {
		var d appsv1.Deployment
		if err := yaml.Unmarshal([]byte(doc), &d); err != nil {
			t.Fatal(err)
		}
		kinds[d.Kind]++
		if d.Kind != "Deployment" {
			continue
		}
		c := d.Spec.Template.Spec.Containers[0]
		if c.Image != "nbdexport:dev" || c.Env[0].Name != "NBDEXPORT_IMAGE" || c.Env[0].Value != c.Image {
			t.Errorf("image %q, environment %+v", c.Image, c.Env)
		}
	}
	for kind, n := range map[string]int{"CustomResourceDefinition": 1, "Namespace": 1, "Deployment": 1, "ServiceAccount": 1, "ClusterRole": 3, "ClusterRoleBinding": 2, "Role": 1, "RoleBinding": 1, "Service": 1} {
		if kinds[kind] != n {
			t.Errorf("%d objects of kind %s, want %d", kinds[kind], kind, n)
		}
	}
}

// TestSamplesBuild also looks whether every sample is in the list.
func TestSamplesBuild(t *testing.T) {
	files, err := filepath.Glob("samples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	out := kustomize(t, "config/samples")
	if got, want := strings.Count(out, "\nkind: NBDExport\n"), len(files)-1; got != want {
		t.Errorf("kustomization.yaml has %d of %d samples", got, want)
	}
}

func kustomize(t *testing.T, dir string) string {
	t.Helper()
	return command(t, "go", "tool", "-modfile=hack/tools/go.mod", "kustomize", "build", dir)
}

// command runs a program at the top of the repository.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = root
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}
