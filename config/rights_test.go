package config_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// TestRightsEndSomewhere looks for rights with which the manager could get others, or
// that have no bounds. Leases of others in its namespace aren't its own.
func TestRightsEndSomewhere(t *testing.T) {
	files, err := filepath.Glob("rbac/*role.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%v, %v", files, err)
	}
	never := []string{"*", "escalate", "bind", "impersonate", "deletecollection", "approve", "sign"}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var role rbacv1.Role // a ClusterRole has the same rules
		if err := yaml.UnmarshalStrict(text, &role); err != nil {
			t.Fatal(err)
		}
		if len(role.Rules) == 0 {
			t.Errorf("%s has no rules", file)
		}
		for _, rule := range role.Rules {
			for _, word := range slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs, rule.NonResourceURLs) {
				if slices.Contains(never, word) {
					t.Errorf("%s: %s", file, word)
				}
			}
			for _, group := range rule.APIGroups {
				if strings.HasPrefix(group, "rbac.") || strings.HasPrefix(group, "admissionregistration.") || strings.HasPrefix(group, "certificates.") {
					t.Errorf("%s: rights on %s", file, group)
				}
			}
			for _, resource := range rule.Resources {
				if _, sub, ok := strings.Cut(resource, "/"); ok && sub != "status" || resource == "serviceaccounts" {
					t.Errorf("%s: rights on %s", file, resource)
				}
				if resource == "leases" && !slices.Equal(rule.Verbs, []string{"create"}) && !slices.Equal(rule.ResourceNames, []string{"nbdexport-manager"}) {
					t.Errorf("%s: %v of every lease", file, rule.Verbs)
				}
			}
		}
	}
}
