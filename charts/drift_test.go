package charts_test

import (
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSameAsKustomize: with its default values the chart installs what
// config/default does, object by object, but for what is Helm's own: labels of
// the release, and the annotation that keeps the CRD. The namespace is made by
// helm --create-namespace.
func TestSameAsKustomize(t *testing.T) {
	cmd := exec.Command("go", "tool", "-modfile=hack/tools/go.mod", "kustomize", "build", "config/default")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kustomize: %v", err)
	}
	want := parse(t, string(out))
	delete(want, "Namespace nbdexport-system")
	got := parse(t, render(t, ""))
	maps.DeleteFunc(got, func(_ string, o object) bool {
		hooks, _ := o.at("metadata.annotations").(map[string]any)
		return hooks["helm.sh/hook"] != nil
	})

	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
		t.Fatalf("config/default (-) and the chart (+) have other objects:\n%s", diff)
	}
	for key := range want {
		for _, o := range []object{want[key], got[key]} {
			o.without([]string{"metadata", "labels"})
			o.without([]string{"metadata", "annotations", "helm.sh/resource-policy"})
			for _, selector := range []string{"spec.selector", "spec.selector.matchLabels", "spec.template.metadata.labels"} {
				o.without(append(strings.Split(selector, "."), "app.kubernetes.io/instance"))
			}
		}
		if diff := cmp.Diff(want[key], got[key]); diff != "" {
			t.Errorf("%s differs between config/default (-) and the chart (+); change charts/nbdexport/templates:\n%s", key, diff)
		}
	}
}

// TestObjectConditionResources: the manager gets each of them, on top of what it may
// do anyway, in the whole cluster and in single namespaces.
func TestObjectConditionResources(t *testing.T) {
	const values = "objectConditionResources: [{apiGroup: batch, resource: jobs}, {apiGroup: '', resource: nodes}]\n"
	before := parse(t, render(t, ""))["ClusterRole nbdexport-manager"].at("rules").([]any)
	want := append(before,
		map[string]any{"apiGroups": []any{"batch"}, "resources": []any{"jobs"}, "verbs": []any{"get"}},
		map[string]any{"apiGroups": []any{""}, "resources": []any{"nodes"}, "verbs": []any{"get"}})
	for name, more := range map[string]string{"ClusterRole nbdexport-manager": "", "Role a nbdexport-manager": "watchNamespaces: [a]"} {
		if diff := cmp.Diff(any(want), parse(t, render(t, values+more))[name].at("rules")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestRolesAreTheClusterRole: in each namespace the manager may do what it else
// may do everywhere, and is bound to it.
func TestRolesAreTheClusterRole(t *testing.T) {
	everywhere := parse(t, render(t, ""))["ClusterRole nbdexport-manager"]
	named := parse(t, render(t, "watchNamespaces: [a, b]"))
	if everywhere == nil {
		t.Fatal("there is no ClusterRole for the whole cluster")
	}
	for _, ns := range []string{"a", "b"} {
		role, binding := named["Role "+ns+" nbdexport-manager"], named["RoleBinding "+ns+" nbdexport-manager"]
		if diff := cmp.Diff(everywhere.at("rules"), role.at("rules")); diff != "" {
			t.Errorf("rules of the ClusterRole (-) and of the Role in %s (+):\n%s", ns, diff)
		}
		subject := []any{map[string]any{"kind": "ServiceAccount", "name": "nbdexport-manager", "namespace": "nbdexport-system"}}
		if diff := cmp.Diff(subject, binding.at("subjects")); diff != "" || binding.at("roleRef.name") != "nbdexport-manager" {
			t.Errorf("the binding in %s: %v\n%s", ns, binding, diff)
		}
	}
	if named["ClusterRole nbdexport-manager"] != nil {
		t.Error("there is a ClusterRole beside the Roles")
	}
}
