package desired

import (
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

func TestTemporaryClaim(t *testing.T) {
	e := export(t, "snapshots")
	for name, f := range map[string]SnapshotFacts{
		"root": {Size: resource.MustParse("10Gi"), Mode: corev1.PersistentVolumeFilesystem, StorageClass: "fast"},
		"data": {Size: resource.MustParse("1073742336"), Mode: corev1.PersistentVolumeBlock},
	} {
		for _, v := range e.Spec.Volumes {
			if v.Name != name {
				continue
			}
			claim := TemporaryClaim(e, v, f)
			golden(t, "snapshots."+name+".claim", claim)
			if !RestoredFrom(claim, v) {
				t.Errorf("%s isn't restored from its snapshot", name)
			}
		}
	}
}

// TestRestoredFrom has claims of other origins.
func TestRestoredFrom(t *testing.T) {
	v := v1alpha1.Volume{Name: "root", Source: v1alpha1.VolumeSource{VolumeSnapshot: &v1alpha1.SnapshotSource{Name: "monday"}}}
	group, other := SnapshotGroup, "example.test"
	for name, from := range map[string]*corev1.TypedObjectReference{
		"nothing":          nil,
		"another snapshot": {APIGroup: &group, Kind: "VolumeSnapshot", Name: "tuesday"},
		"a claim":          {Kind: "PersistentVolumeClaim", Name: "monday"},
		"another group":    {APIGroup: &other, Kind: "VolumeSnapshot", Name: "monday"},
	} {
		if RestoredFrom(&corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{DataSourceRef: from}}, v) {
			t.Errorf("restored from %s", name)
		}
	}
}

func TestTemporaryClaimName(t *testing.T) {
	valid := regexp.MustCompile(`^[a-z]([-a-z0-9]*[a-z0-9])?$`)
	seen := map[string]string{}
	for _, c := range [][2]string{
		{"a", "b"}, {"a-b", "c"}, {"a", "b-c"}, {"a.b", "c"}, {"a.b-c", "d"},
		{strings.Repeat("x", 253), strings.Repeat("y", 63)}, {strings.Repeat("x", 253), strings.Repeat("y", 62) + "z"},
		{strings.Repeat("x", 49) + strings.Repeat("-", 10) + "y", "z"},
	} {
		name := TemporaryClaimName(c[0], c[1])
		if len(name) > 63 || !valid.MatchString(name) {
			t.Errorf("%v: %s can't be a name", c, name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("%v and %s have the same claim %s", c, other, name)
		}
		seen[name] = c[0] + "/" + c[1]
	}
}
