package controllers

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// parsed is an object in YAML.
func parsed(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	var u unstructured.Unstructured
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return &u
}

// TestUnready has snapshots in each of their states, and some that no controller
// would write.
func TestUnready(t *testing.T) {
	for _, c := range []struct {
		name, object string
		want         string // reason; empty if it is ready
		words        []string
	}{
		{"ready", "status: {readyToUse: true, boundVolumeSnapshotContentName: c}", "", nil},
		{"ready, with an old error", "status: {readyToUse: true, boundVolumeSnapshotContentName: c, error: {message: busy}}", "", nil},
		{"new", "{}", v1alpha1.ReasonSnapshotNotReady, []string{"VolumeSnapshot monday isn't ready", "starts when it is"}},
		{"being taken", "status: {readyToUse: false, boundVolumeSnapshotContentName: c}", v1alpha1.ReasonSnapshotNotReady, nil},
		{"ready, without content", "status: {readyToUse: true}", v1alpha1.ReasonSnapshotNotReady, nil},
		{"failed", "status: {readyToUse: false, error: {message: \"no such\\n class\"}}", v1alpha1.ReasonSnapshotFailed, []string{"VolumeSnapshot monday", "no such class", "take it anew"}},
		{"being deleted", "metadata: {deletionTimestamp: \"2026-01-02T12:00:00Z\"}\nstatus: {readyToUse: true, boundVolumeSnapshotContentName: c}",
			v1alpha1.ReasonSnapshotDeleting, []string{"VolumeSnapshot monday", "another one"}},
		{"of another form", "status: {readyToUse: \"yes\", error: none}", v1alpha1.ReasonSnapshotNotReady, nil},
		{"of no form", "status: 7", v1alpha1.ReasonSnapshotNotReady, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			obj := parsed(t, c.object)
			obj.SetName("monday")
			f, _ := unready(obj)
			expectFinding(t, f, c.want, c.words)
		})
	}
}

// TestRestorable takes size, mode and class from where they are known.
func TestRestorable(t *testing.T) {
	claim := func(class *string, mode *corev1.PersistentVolumeMode) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{
			Spec:   corev1.PersistentVolumeClaimSpec{StorageClassName: class, VolumeMode: mode},
			Status: corev1.PersistentVolumeClaimStatus{Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("5Gi")}},
		}
	}
	block := ptr.To(corev1.PersistentVolumeBlock)
	for _, c := range []struct {
		name          string
		object        string
		content       string
		claim         *corev1.PersistentVolumeClaim
		source        v1alpha1.SnapshotSource
		size          string
		mode          corev1.PersistentVolumeMode
		class, reason string
	}{
		{name: "all from the claim", object: "{}", claim: claim(ptr.To("fast"), block), size: "5Gi", mode: "Block", class: "fast"},
		{name: "size of the snapshot", object: "status: {restoreSize: 3Gi}", claim: claim(nil, nil), size: "3Gi", mode: "Filesystem"},
		{name: "size in bytes", object: "status: {restoreSize: 3221225472}", claim: claim(nil, nil), size: "3Gi", mode: "Filesystem"},
		{name: "size zero", object: "status: {restoreSize: \"0\"}", claim: claim(nil, nil), size: "5Gi", mode: "Filesystem"},
		{name: "size of another form", object: "status: {restoreSize: large}", claim: claim(nil, nil), size: "5Gi", mode: "Filesystem"},
		{name: "claim gone", object: "status: {restoreSize: 3Gi}", content: "spec: {sourceVolumeMode: Block}", size: "3Gi", mode: "Block"},
		{name: "claim is another one", object: "status: {restoreSize: 3Gi}", content: "spec: {sourceVolumeMode: Filesystem}",
			claim: claim(ptr.To(""), block), size: "3Gi", mode: "Filesystem"},
		{name: "content without mode", object: "status: {restoreSize: 3Gi}", content: "spec: {}", claim: claim(nil, block), size: "3Gi", mode: "Block"},
		{name: "class of the spec", object: "status: {restoreSize: 3Gi}", claim: claim(ptr.To("slow"), nil),
			source: v1alpha1.SnapshotSource{StorageClassName: ptr.To("fast"), Path: ptr.To(v1alpha1.FilePath("a.img"))}, size: "3Gi", mode: "Filesystem", class: "fast"},
		{name: "path of a device", object: "status: {restoreSize: 3Gi}", content: "spec: {sourceVolumeMode: Block}",
			source: v1alpha1.SnapshotSource{Path: ptr.To(v1alpha1.FilePath("a.img"))}, mode: "Block", size: "0", reason: v1alpha1.ReasonInvalidVolume},
		{name: "nothing is known", object: "{}", mode: "Filesystem", size: "0", reason: v1alpha1.ReasonInvalidVolume},
	} {
		t.Run(c.name, func(t *testing.T) {
			var content *unstructured.Unstructured
			if c.content != "" {
				content = parsed(t, c.content)
			}
			s := restorable(parsed(t, c.object), content, c.claim, c.source)
			if s.trouble.reason != c.reason || s.facts.Size.Cmp(resource.MustParse(c.size)) != 0 || s.facts.Mode != c.mode || s.facts.StorageClass != c.class {
				t.Errorf("%+v, size %s", s, s.facts.Size.String())
			}
		})
	}
}

// TestUnread turns what the API server answers into reasons.
func TestUnread(t *testing.T) {
	resource := schema.GroupResource{Group: desired.SnapshotGroup, Resource: "volumesnapshots"}
	for _, c := range []struct {
		err   error
		want  string
		words []string
	}{
		{apierrors.NewNotFound(resource, "monday"), v1alpha1.ReasonSnapshotNotFound, []string{"VolumeSnapshot monday doesn't exist", "create it"}},
		{&meta.NoKindMatchError{}, v1alpha1.ReasonSnapshotsUnsupported, []string{"monday", "no VolumeSnapshots in snapshot.storage.k8s.io/v1", "install the CRDs"}},
		{apierrors.NewForbidden(resource, "monday", errors.New("no")), v1alpha1.ReasonSnapshotsUnsupported, []string{"may not get", "service account"}},
		{errors.New("at 12:01"), v1alpha1.ReasonSnapshotNotReady, []string{"monday can't be read for now", "operator's log"}},
	} {
		expectFinding(t, unread(context.Background(), "monday", c.err), c.want, c.words)
	}
}

// TestUntilSnapshot looks again soon at what is about to change.
func TestUntilSnapshot(t *testing.T) {
	for reason, want := range map[string]time.Duration{
		"":                                  0,
		v1alpha1.ReasonSnapshotNotFound:     snapshotDelay,
		v1alpha1.ReasonSnapshotNotReady:     snapshotDelay,
		v1alpha1.ReasonSnapshotFailed:       snapshotDelay,
		v1alpha1.ReasonSnapshotsUnsupported: refusedDelay,
		v1alpha1.ReasonInvalidVolume:        refusedDelay,
	} {
		var p plan
		p.untilSnapshot(&observed{snapshots: map[string]snapshot{"disk": {trouble: finding{reason: reason}}}})
		if p.again != want {
			t.Errorf("%s: again in %v, want %v", reason, p.again, want)
		}
	}
}
