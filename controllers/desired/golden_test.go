package desired

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the expected objects anew")

// export reads an NBDExport from testdata, and fills in what the API server
// would have.
func export(t *testing.T, name string) *v1alpha1.NBDExport {
	t.Helper()
	e := undefaulted(t, name)
	s := &e.Spec
	s.PollSeconds = orElse(s.PollSeconds, 60)
	s.Drain = orElse(s.Drain, v1alpha1.Drain{})
	s.Drain.TimeoutSeconds = orElse(s.Drain.TimeoutSeconds, 600)
	s.Drain.Policy = orElse(s.Drain.Policy, v1alpha1.DrainRefuse)
	s.Service = orElse(s.Service, v1alpha1.Service{})
	s.Service.Port = orElse(s.Service.Port, v1alpha1.DefaultPort)
	s.NetworkPolicy = orElse(s.NetworkPolicy, v1alpha1.NetworkPolicy{})
	s.NetworkPolicy.Mode = orElse(s.NetworkPolicy.Mode, v1alpha1.NetworkPolicyManaged)
	s.Service.Type = orElse(s.Service.Type, v1alpha1.ServiceClusterIP)
	s.TLS = orElse(s.TLS, v1alpha1.TLS{})
	s.TLS.Mode = orElse(s.TLS.Mode, v1alpha1.TLSRequired)
	s.TLS.ClientAuth = orElse(s.TLS.ClientAuth, v1alpha1.ClientAuthRequired)
	for i := range s.Volumes {
		s.Volumes[i].Access = orElse(s.Volumes[i].Access, v1alpha1.ReadOnly)
		s.Volumes[i].Format = orElse(s.Volumes[i].Format, v1alpha1.Raw)
	}
	for _, c := range s.ExitWhen {
		if c.Script != nil {
			c.Script.TimeoutSeconds = orElse(c.Script.TimeoutSeconds, 30)
		}
	}
	return e
}

// undefaulted reads an NBDExport from testdata as it is.
func undefaulted(t *testing.T, name string) *v1alpha1.NBDExport {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".export.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	e := &v1alpha1.NBDExport{}
	if err := yaml.UnmarshalStrict(text, e); err != nil {
		t.Fatal(err)
	}
	e.Namespace, e.UID = "vms", "11111111-2222-3333-4444-555555555555"
	e.CreationTimestamp = metav1.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	return e
}

func orElse[T any](v *T, def T) *T {
	if v == nil {
		return &def
	}
	return v
}

// golden compares an object with the one in testdata, or writes that anew.
func golden(t *testing.T, name string, obj any) {
	t.Helper()
	got, err := yaml.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", name+".yaml")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: go test ./controllers/desired -update writes it", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is another one now (-want +got); if that is meant: go test ./controllers/desired -update\n%s", file, diff)
	}
}

// exports are the names of the exports in testdata.
func exports(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "*.export.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no exports in testdata: %v", err)
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".export.yaml"))
	}
	return names
}
