package packaging_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSBOM: the bill of materials of a program has each of its modules, in the
// version that it was built with.
func TestSBOM(t *testing.T) {
	t.Parallel()
	bin := filepath.Join(t.TempDir(), "nbdserver")
	build := exec.Command("go", "build", "-o", bin, "./cmd/nbdserver")
	build.Dir = root
	run(t, build)
	var bom struct {
		BOMFormat  string
		Metadata   struct{ Component struct{ Purl string } }
		Components []struct{ Purl string }
	}
	if err := json.Unmarshal([]byte(run(t, exec.Command("go", "run", "-C", root+"/hack/sbom", ".", bin, "v1.2.3"))), &bom); err != nil {
		t.Fatal(err)
	}
	if purl := bom.Metadata.Component.Purl; bom.BOMFormat != "CycloneDX" || purl != "pkg:golang/github.com/nbdexport/nbdexport@v1.2.3" {
		t.Errorf("the format is %q, the program %q", bom.BOMFormat, purl)
	}
	var got, want []string
	for _, c := range bom.Components {
		got = append(got, c.Purl)
	}
	list := exec.Command("go", "list", "-deps", "-f", `{{with .Module}}{{if not .Main}}pkg:golang/{{.Path}}@{{.Version}}{{end}}{{end}}`, "./cmd/nbdserver")
	list.Dir = root
	for line := range strings.Lines(run(t, list)) {
		if purl := strings.ToLower(strings.TrimSpace(line)); purl != "" && !slices.Contains(want, purl) {
			want = append(want, purl)
		}
	}
	if len(want) < 5 || len(got) != len(want)+1 || !strings.HasPrefix(got[0], "pkg:golang/std@go1.") {
		t.Errorf("listed are %q, linked are Go and %q", got, want)
	}
	for _, purl := range want {
		if !slices.Contains(got, purl) {
			t.Errorf("%s is not listed", purl)
		}
	}
}
