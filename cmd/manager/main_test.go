package main

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
)

// TestCommand reads flags and the environment.
func TestCommand(t *testing.T) {
	for _, c := range []struct {
		name, env string
		args      []string
		image     string
		spaces    []string
		err       string
	}{
		{name: "image from the environment", env: "a:1", image: "a:1"},
		{name: "the flag wins", env: "a:1", args: []string{"--server-image=b:2"}, image: "b:2"},
		{name: "namespaces", env: "a:1", args: []string{"--namespaces=b,c"}, image: "a:1", spaces: []string{"b", "c"}},
		{name: "empty namespace", env: "a:1", args: []string{"--namespaces=b,"}, err: `--namespaces: ""`},
		{name: "wrong namespace", env: "a:1", args: []string{"--namespaces=b;c"}, err: `--namespaces: "b;c"`},
		{name: "no image", err: "--server-image"},
		{name: "argument", env: "a:1", args: []string{"start"}, err: "start"},
		{name: "unknown flag", env: "a:1", args: []string{"--metrics"}, err: "--metrics"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got options
			cmd := command(func(string) string { return c.env }, func(_ context.Context, o options) error { got = o; return nil })
			cmd.SetArgs(c.args)
			err := cmd.Execute()
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("got %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || got.serverImage != c.image || got.metricsAddress != "0" || got.probeAddress != ":8081" || got.leaderElect || !slices.Equal(got.namespaces, c.spaces) {
				t.Errorf("%v, %+v", err, got)
			}
		})
	}
}

// TestCacheOptions: what is watched without a flag is the whole cluster.
func TestCacheOptions(t *testing.T) {
	if got := cacheOptions(nil).DefaultNamespaces; len(got) != 0 {
		t.Errorf("without namespaces only %v are watched", got)
	}
	got := cacheOptions([]string{"a", "b"}).DefaultNamespaces
	if _, ok := got["b"]; !ok || len(got) != 2 {
		t.Errorf("watched are %v, not a and b", got)
	}
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	log, err := logger(&out, "json", "info")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("served", "export", "e")
	if !strings.Contains(out.String(), `"msg":"served","export":"e"`) {
		t.Errorf("got %s", out.String())
	}
	if _, err := logger(&out, "xml", "info"); err == nil || !strings.Contains(err.Error(), "--log-format xml") {
		t.Errorf("got %v", err)
	}
	if _, err := logger(&out, "json", "loud"); err == nil || !strings.Contains(err.Error(), "--log-level loud") {
		t.Errorf("got %v", err)
	}
}
