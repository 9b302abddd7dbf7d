package charts_test

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// TestValuesAreRefused: what helm says names the value, and what is wrong with it.
func TestValuesAreRefused(t *testing.T) {
	for _, c := range []struct{ name, values, message string }{
		{"unknown", "replica: 2", "additional properties 'replica' not allowed"},
		{"unknown below", "image: {repo: a}", "at '/image': additional properties 'repo' not allowed"},
		{"unknown in a list", "metrics: {readers: [{name: a, namespace: b, kind: User}]}", "at '/metrics/readers/0': additional properties 'kind' not allowed"},
		{"unknown in a toleration", "tolerations: [{keys: a}]", "at '/tolerations/0': additional properties 'keys' not allowed"},
		{"unknown affinity", "affinity: {podAntiAfinity: {}}", "at '/affinity': additional properties 'podAntiAfinity' not allowed"},
		{"missing", "metrics: {readers: [{name: a}]}", "at '/metrics/readers/0': missing property 'namespace'"},
		{"text for a number", "replicas: two", "at '/replicas': got string, want integer"},
		{"too many", "replicas: 11", "at '/replicas': maximum: got 11, want 10"},
		{"text for a bool", `crds: {enabled: "no"}`, "at '/crds/enabled': got string, want boolean"},
		{"no such policy", "image: {pullPolicy: Sometimes}", "at '/image/pullPolicy': value must be one of '', 'Always', 'IfNotPresent', 'Never'"},
		{"bad digest", "image: {digest: md5:00}", "at '/image/digest': 'md5:00' does not match pattern"},
		{"digest in the repository", "image: {repository: a@sha256:00}", "at '/image/repository': 'a@sha256:00' does not match pattern"},
		{"no repository", "image: {repository: null}", "at '/image': missing property 'repository'"},
		{"bad namespace", "watchNamespaces: [A_b]", "at '/watchNamespaces/0': 'A_b' does not match pattern"},
		{"namespace twice", "watchNamespaces: [a, a]", "at '/watchNamespaces': items at 0 and 1 are equal"},
		{"all objects", `objectConditionResources: [{apiGroup: "*", resource: jobs}]`, "at '/objectConditionResources/0/apiGroup': '*' does not match pattern"},
		{"all kinds", `objectConditionResources: [{apiGroup: batch, resource: "*"}]`, "at '/objectConditionResources/0/resource': '*' does not match pattern"},
		{"no group", "objectConditionResources: [{resource: jobs}]", "at '/objectConditionResources/0': missing property 'apiGroup'"},
		{"bad quantity", "resources: {limits: {memory: 1 GB}}", "at '/resources/limits/memory': '1 GB' does not match pattern"},
		{"bad port", "networkPolicy: {apiServerPorts: [0]}", "at '/networkPolicy/apiServerPorts/0': minimum: got 0, want 1"},
		{"bad interval", "podMonitor: {interval: 30}", "at '/podMonitor/interval': got number, want string"},
		{"label of ours", "podLabels: {app.kubernetes.io/name: a}", "invalid propertyName 'app.kubernetes.io/name'"},
		{"server image without repository", "serverImage: {tag: a}", "serverImage has a tag or a digest, but no repository"},
		{"nothing to scrape", "metrics: {enabled: false}\nserviceMonitor: {enabled: true}", "serviceMonitor.enabled needs metrics.enabled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := template(t, c.values)
			if said := failure(t, out, err); !strings.Contains(said, c.message) {
				t.Errorf("helm says %q, not %q", said, c.message)
			}
		})
	}
}

// free are the values that somebody else's schema is for.
var free = []string{
	"/global",
	"/affinity/nodeAffinity", "/affinity/podAffinity", "/affinity/podAntiAffinity",
	"/networkPolicy/metricsFrom/[]/namespaceSelector", "/networkPolicy/metricsFrom/[]/podSelector",
}

// TestSchemaIsClosed: no object of the schema takes keys that it doesn't name,
// but for maps of strings and quantities. Its keys are those of values.yaml.
func TestSchemaIsClosed(t *testing.T) {
	text, err := os.ReadFile(chart + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema object
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	text, err = os.ReadFile(chart + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		t.Fatal(err)
	}
	values["global"] = nil // Helm's

	var check func(path string, s object, value any)
	check = func(path string, s object, value any) {
		if ref, ok := s["$ref"].(string); ok {
			s = schema.at(strings.ReplaceAll(strings.TrimPrefix(ref, "#/"), "/", ".")).(map[string]any)
		}
		if items, ok := s["items"].(map[string]any); ok {
			check(path+"/[]", items, nil)
		}
		if s["type"] != "object" || slices.Contains(free, path) {
			return
		}
		if of, ok := s["additionalProperties"].(map[string]any); ok && of["type"] != nil {
			return
		}
		if s["additionalProperties"] != false {
			t.Errorf("%s takes any key", path)
		}
		properties := s["properties"].(map[string]any)
		defaults, ok := value.(map[string]any)
		if ok && !slices.Contains([]string{"/affinity", "/resources"}, path) {
			if diff := cmp.Diff(slices.Sorted(maps.Keys(properties)), slices.Sorted(maps.Keys(defaults))); diff != "" {
				t.Errorf("%s: the schema (-) and values.yaml (+) have other keys\n%s", path, diff)
			}
		}
		for key, p := range properties {
			check(path+"/"+key, p.(map[string]any), defaults[key])
		}
	}
	check("", schema, values)
}
