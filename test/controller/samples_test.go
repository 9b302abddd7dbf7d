package controller_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// TestSamples applies every sample, with strict validation.
func TestSamples(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	files, err := filepath.Glob(filepath.Join("..", "..", "config", "samples", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	for _, file := range files {
		if filepath.Base(file) == "kustomization.yaml" {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var u unstructured.Unstructured
		if err := yaml.Unmarshal(text, &u.Object); err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		u.SetNamespace(ns)
		if err := client.WithFieldValidation(kube, "Strict").Create(context.Background(), &u); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}
