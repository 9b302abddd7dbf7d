// Command crd makes the generated CustomResourceDefinition small enough for
// a client-side "kubectl apply", which keeps a copy in an annotation of at most
// 262,144 bytes. It takes the descriptions out of the types that are embedded
// from Kubernetes' own API, which "kubectl explain pod" tells as well, and leaves
// those of this project. And it bounds the lists in such types that rules look into.
package main

import (
	"fmt"
	"os"

	"sigs.k8s.io/yaml"
)

// embedded are the fields below which everything comes from Kubernetes' own
// API, as paths of property names from the root of the object.
var embedded = [][]string{
	{"spec", "template", "containers"},
	{"spec", "template", "volumes"},
	{"spec", "template", "tolerations"},
	{"spec", "template", "affinity"},
	{"spec", "template", "resources"},
}

// bounded are lists in such types into which a rule looks, of at most maxItems: the
// API server takes no rule about a list without an end.
var bounded = [][]string{
	{"spec", "template", "containers", "ports"},
	{"spec", "template", "containers", "volumeDevices"},
	{"spec", "template", "containers", "volumeMounts"},
}

const maxItems = 64

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: crd FILE")
		os.Exit(1)
	}
	if err := trim(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "crd:", err)
		os.Exit(1)
	}
}

// trim rewrites the definition in a file.
func trim(file string) error {
	in, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var crd map[string]any
	if err := yaml.Unmarshal(in, &crd); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, v := range crd["spec"].(map[string]any)["versions"].([]any) {
		root := v.(map[string]any)["schema"].(map[string]any)["openAPIV3Schema"]
		for _, path := range embedded {
			field, err := property(root, path)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			own := field["description"]
			dropDescriptions(field)
			field["description"] = own
		}
		for _, path := range bounded {
			field, err := property(root, path)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			field["maxItems"] = maxItems
		}
	}
	out, err := yaml.Marshal(crd)
	if err != nil {
		return err
	}
	return os.WriteFile(file, append([]byte("---\n"), out...), 0o644)
}

// property follows names of properties down a schema, and into the items of lists.
func property(schema any, path []string) (map[string]any, error) {
	at := schema.(map[string]any)
	for _, name := range path {
		if items, ok := at["items"].(map[string]any); ok {
			at = items
		}
		props, _ := at["properties"].(map[string]any)
		next, ok := props[name].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("no field %q of %v in the schema: correct the list in hack/crd", name, path)
		}
		at = next
	}
	return at, nil
}

// dropDescriptions removes the description of a schema and of all below it. A
// property that is itself called "description" is an object, not a string, and
// stays.
func dropDescriptions(node any) {
	switch n := node.(type) {
	case map[string]any:
		if _, ok := n["description"].(string); ok {
			delete(n, "description")
		}
		for _, v := range n {
			dropDescriptions(v)
		}
	case []any:
		for _, v := range n {
			dropDescriptions(v)
		}
	}
}
