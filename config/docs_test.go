package config_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReasonsAreDocumented looks whether docs/nbdexport.md has every reason that a
// status or an Event can have, and whether docs/reasons.md has tests that name it.
func TestReasonsAreDocumented(t *testing.T) {
	guide, table := text(t, "docs/nbdexport.md"), text(t, "docs/reasons.md")
	tests := map[string]map[string]string{
		"":     testsIn(t, "test/controller"),
		"e2e":  testsIn(t, "test/e2e"),
		"unit": testsIn(t, "controllers"),
	}
	testName := regexp.MustCompile(`\b(?:(e2e|unit) )?(Test\w+)`)
	found := regexp.MustCompile(`(?m)^\t((Reason|Exit|Event)\w+) = "(\w+)"`).FindAllStringSubmatch(text(t, "api/v1alpha1/reasons.go"), -1)
	if len(found) < 55 {
		t.Fatalf("%d reasons", len(found))
	}
	for _, m := range found {
		constant, kind, reason := m[1], m[2], m[3]
		if !strings.Contains(guide, "`"+reason+"`") {
			t.Errorf("docs/nbdexport.md doesn't have %s", reason)
		}
		// The row of a condition has another column before that of the reason.
		row := map[string]string{
			"Reason": "(?m)^\\| [^|]*\\| `" + reason + "` \\|(.*)",
			"Exit":   "(?m)^\\| `" + reason + "` \\|(.*)",
			"Event":  "`" + reason + "`:(.*)",
		}[kind]
		cell := regexp.MustCompile(row).FindStringSubmatch(table)
		if cell == nil {
			t.Errorf("docs/reasons.md doesn't have %s: add the tests that show it", reason)
			continue
		}
		named := testName.FindAllStringSubmatch(cell[1], -1)
		if len(named) == 0 {
			t.Errorf("docs/reasons.md names no test for %s", reason)
		}
		folder := ""
		for _, n := range named {
			if n[1] != "" {
				folder = n[1] // for those that follow too
			}
			body, ok := tests[folder][n[2]]
			if !ok {
				t.Errorf("docs/reasons.md: for %s there is no %s %s", reason, folder, n[2])
			} else if !regexp.MustCompile(`\b(` + constant + `|` + reason + `)\b`).MatchString(body) {
				t.Errorf("docs/reasons.md: %s %s doesn't have %s", folder, n[2], reason)
			}
		}
	}
}

// testsIn are the tests in a folder, by name, each with its text.
func testsIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{}
	for _, file := range files {
		for _, f := range strings.Split(text(t, strings.TrimPrefix(file, root)), "\nfunc ") {
			if name, _, ok := strings.Cut(f, "("); ok && strings.HasPrefix(name, "Test") {
				tests[name] = f
			}
		}
	}
	return tests
}

// TestLinks looks whether what the documents link to in this repository is there, and
// whether a link into a document leads to one of its headings.
func TestLinks(t *testing.T) {
	code := regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
	link := regexp.MustCompile(`\]\(([^()\s]+)\)`)
	links := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".md" {
			return nil
		}
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(text(t, strings.TrimPrefix(path, root)), ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			file, anchor, _ := strings.Cut(m[1], "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			content, err := os.ReadFile(target)
			if dir, serr := os.Stat(target); serr == nil && dir.IsDir() {
				err = nil
			}
			if err != nil {
				t.Errorf("%s: %s isn't there", path, m[1])
			} else if anchor != "" && !anchors(string(content))[anchor] {
				t.Errorf("%s: %s has no such heading", path, m[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if links < 100 {
		t.Errorf("only %d links were found", links)
	}
}

// anchors are the names that GitHub gives to the headings of a document.
func anchors(doc string) map[string]bool {
	names := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(doc, -1) {
		name := regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		names[strings.ReplaceAll(name, " ", "-")] = true
	}
	return names
}

// TestDockerfileHasTheSources looks whether the Dockerfile copies every folder that
// the programs are built from: nothing else here runs docker.
func TestDockerfileHasTheSources(t *testing.T) {
	dockerfile := text(t, "Dockerfile")
	const module = "github.com/nbdexport/nbdexport/"
	for line := range strings.Lines(command(t, "go", "list", "-deps", "./cmd/nbdserver", "./cmd/manager")) {
		if path, ours := strings.CutPrefix(strings.TrimSpace(line), module); ours {
			dir, _, _ := strings.Cut(path, "/")
			if !strings.Contains(dockerfile, "\nCOPY "+dir+" "+dir+"\n") {
				t.Errorf("the Dockerfile doesn't copy %s, which has the package %s", dir, path)
			}
		}
	}
}

// text is a file of the repository.
func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
