package controller_test

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// unusedRights are the rights of the operator that no request in an audit log has
// needed, as VERB RESOURCE.
func unusedRights(log string) ([]string, error) {
	used, err := usedRights(log)
	if err != nil {
		return nil, err
	}
	var unused []string
	for _, name := range rbacFiles {
		if !strings.HasSuffix(name, "role") {
			continue
		}
		text, err := os.ReadFile(filepath.Join("..", "..", "config", "rbac", name+".yaml"))
		if err != nil {
			return nil, err
		}
		var role rbacv1.Role // a ClusterRole has the same rules
		if err := yaml.Unmarshal(text, &role); err != nil {
			return nil, err
		}
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						if right := verb + " " + strings.Trim(group+"/"+resource, "/"); !used[right] {
							unused = append(unused, name+": "+right)
						}
					}
				}
			}
		}
	}
	slices.Sort(unused)
	return unused, nil
}

// usedRights are the rights that requests in an audit log have needed: who applies
// what isn't there must be allowed to create it too, and who watches is allowed to
// list where the API server doesn't begin a watch with what is there.
func usedRights(log string) (map[string]bool, error) {
	f, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	used := map[string]bool{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct {
			Verb      string
			ObjectRef struct {
				APIGroup, Resource, Subresource string
			}
			ResponseStatus struct{ Code int }
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return nil, fmt.Errorf("%s: %w", log, err)
		}
		o := event.ObjectRef
		resource := strings.Trim(o.APIGroup+"/"+o.Resource+"/"+o.Subresource, "/")
		used[event.Verb+" "+resource] = true
		switch {
		case event.Verb == "patch" && event.ResponseStatus.Code == http.StatusCreated:
			used["create "+resource] = true
		case event.Verb == "watch":
			used["list "+resource] = true
		}
	}
	return used, lines.Err()
}

// wholeRun tells whether all tests of the package run, and not some of them.
func wholeRun() bool {
	for _, name := range []string{"test.run", "test.skip"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return false
		}
	}
	return true
}
