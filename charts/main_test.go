// Package charts_test checks the Helm chart: what it renders, which values it
// refuses, and that it installs what config/default does.
package charts_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/yaml"
)

const (
	root  = ".."
	chart = "nbdexport"
)

// helm is the path of the program.
var helm string

func TestMain(m *testing.M) {
	build := exec.Command("hack/helm.sh")
	build.Dir, build.Stderr = root, os.Stderr
	out, err := build.Output()
	if err != nil {
		fmt.Fprintln(os.Stderr, "hack/helm.sh:", err)
		os.Exit(1)
	}
	helm = strings.TrimSpace(string(out))
	home, err := os.MkdirTemp("", "helm")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Nothing that the user has configured.
	for _, name := range []string{"HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"} {
		os.Setenv(name, home)
	}
	code := m.Run()
	os.RemoveAll(home)
	os.Exit(code)
}

// inputs reads what else only helm and kustomize open. Go test doesn't know of that,
// and after a change would take the result from its cache.
var inputs = sync.OnceValue(func() error {
	for _, dir := range []string{chart, root + "/config"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				_, err = os.ReadFile(path)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
})

// run runs helm.
func run(args ...string) (string, error) {
	if err := inputs(); err != nil {
		return "", err
	}
	var stderr strings.Builder
	cmd := exec.Command(helm, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("helm %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), err
}

// template renders the chart as release "nbdexport" in "nbdexport-system". Values
// are YAML.
func template(t *testing.T, values string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o644); err != nil {
		t.Fatal(err)
	}
	return run("template", "nbdexport", chart, "--namespace=nbdexport-system", "--values="+file)
}

// render renders the chart with values that have to be right.
func render(t *testing.T, values string) string {
	t.Helper()
	out, err := template(t, values)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// object is one of a manifest.
type object map[string]any

// parse reads the objects of a manifest, by kind, namespace and name.
func parse(t *testing.T, manifest string) map[string]object {
	t.Helper()
	objects := map[string]object{}
	for doc := range strings.SplitSeq("\n"+manifest, "\n---") {
		var o object
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		if len(o) == 0 {
			continue
		}
		var names []string
		for _, path := range []string{"kind", "metadata.namespace", "metadata.name"} {
			if s, ok := o.at(path).(string); ok {
				names = append(names, s)
			}
		}
		key := strings.Join(names, " ")
		if _, twice := objects[key]; twice {
			t.Errorf("%s is there twice", key)
		}
		objects[key] = o
	}
	return objects
}

// at is what stands at a path of keys with dots between them, nil for nothing.
func (o object) at(path string) any {
	var v any = map[string]any(o)
	for key := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}

// without takes the key at the end of a path away, and the maps that are empty then.
func (o object) without(path []string) {
	if len(path) > 1 {
		m, ok := o[path[0]].(map[string]any)
		if !ok {
			return
		}
		object(m).without(path[1:])
		if len(m) > 0 {
			return
		}
	}
	delete(o, path[0])
}

// failure is what helm said, for a command that has to fail.
func failure(t *testing.T, out string, err error) string {
	t.Helper()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("helm didn't refuse: %v\n%s", err, out)
	}
	return err.Error()
}
