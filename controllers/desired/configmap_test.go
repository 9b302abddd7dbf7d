package desired

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestConfigMap(t *testing.T) {
	for _, name := range exports(t) {
		t.Run(name, func(t *testing.T) {
			golden(t, name+".configmap", ConfigMap(export(t, name)))
		})
	}
}

func TestConfigMapMatches(t *testing.T) {
	e := export(t, "everything")
	fresh := func() *corev1.ConfigMap {
		b, err := json.Marshal(ConfigMap(e))
		if err != nil {
			t.Fatal(err)
		}
		c := &corev1.ConfigMap{}
		if err := json.Unmarshal(b, c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	if !ConfigMapMatches(e, fresh()) {
		t.Error("a new ConfigMap doesn't match")
	}
	for name, change := range map[string]func(*corev1.ConfigMap){
		"label":  func(c *corev1.ConfigMap) { delete(c.Labels, "app.kubernetes.io/name") },
		"limits": func(c *corev1.ConfigMap) { c.Data[configKey] = "maxConnections: 17\n" },
		"empty":  func(c *corev1.ConfigMap) { c.Data = nil },
	} {
		c := fresh()
		change(c)
		if ConfigMapMatches(e, c) {
			t.Errorf("%s: the change isn't noticed", name)
		}
	}
	c := fresh()
	c.Labels["team"], c.Data["notes"] = "storage", "x"
	if !ConfigMapMatches(e, c) {
		t.Error("somebody else's label or key isn't tolerated")
	}
}
