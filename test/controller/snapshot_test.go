package controller_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// TestSnapshot is the whole life of an export of a snapshot: its temporary claim is
// there before the pod and goes after it.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	installSnapshots(t)
	w := newWorld(t)
	source := w.claim("disk", corev1.ReadWriteOnce, false)
	base := source.DeepCopy()
	source.Spec.StorageClassName = ptr.To("fast")
	if err := kube.Patch(context.Background(), source, client.MergeFrom(base)); err != nil {
		t.Fatal(err)
	}
	w.snapshot("VolumeSnapshotContent", "content-"+w.ns, "spec: {sourceVolumeMode: Filesystem}")
	snap := w.snapshot("VolumeSnapshot", "monday", "spec: {source: {persistentVolumeClaimName: disk}}\n"+
		"status: {readyToUse: true, restoreSize: 2Gi, boundVolumeSnapshotContentName: content-"+w.ns+"}")
	w.export("e", strings.Replace(ofSnapshot, "name: monday", "name: monday, path: images/a.raw", 1))

	claim := w.temporary("disk")
	if s := claim.Spec; *s.StorageClassName != "fast" || *s.VolumeMode != corev1.PersistentVolumeFilesystem || len(s.AccessModes) != 1 ||
		s.AccessModes[0] != corev1.ReadWriteOnce || s.Resources.Requests.Storage().String() != "2Gi" ||
		s.DataSource == nil || s.DataSource.Kind != "VolumeSnapshot" || s.DataSource.Name != "monday" {
		t.Errorf("the claim: %+v", s)
	}
	e := w.read("e")
	if !metav1.IsControlledBy(claim, e) || claim.Labels[v1alpha1.LabelExport] != "e" {
		t.Errorf("owners %+v, labels %v", claim.OwnerReferences, claim.Labels)
	}
	pod := w.pod("nbd-e", nil)
	args := pod.Spec.Containers[0].Args
	if got := args[len(args)-1]; got != "disk=images/a.raw,root=/volumes/disk,access=read-only" {
		t.Errorf("args: %s", got)
	}
	if v := pod.Spec.Volumes[2]; v.PersistentVolumeClaim == nil || v.PersistentVolumeClaim.ClaimName != claim.Name {
		t.Errorf("volumes: %+v", pod.Spec.Volumes)
	}
	claim.Status.Phase = corev1.ClaimBound
	if err := kube.Status().Update(context.Background(), claim); err != nil {
		t.Fatal(err)
	}
	w.serve(pod)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)

	w.remove(snap)
	wake(w, w.read("e"), "1")
	w.settled("e")
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	untouched(t, claim, claim.DeepCopy())

	// The server has ended, a companion hasn't.
	w.report(pod, "file-created=/run/nbdexport/stop")
	w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonDrained)
	w.settled("end")
	untouched(t, claim, claim.DeepCopy())

	w.end(pod, "file-created=/run/nbdexport/stop", 0)
	w.gone(pod)
	w.release(claim)
	w.settled("gone")
	if !w.absent(claim) || len(w.havePods("e")) > 0 {
		t.Error("something was made anew")
	}
	w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonDrained)
}

// TestSnapshotReasons has a snapshot go through its states, without anybody who
// tells of it.
func TestSnapshotReasons(t *testing.T) {
	t.Parallel()
	installSnapshots(t)
	w := newWorld(t)
	w.export("e", ofSnapshot)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonSnapshotNotFound)
	says(t, message(e, v1alpha1.ConditionReady), "VolumeSnapshot monday doesn't exist", "create it")
	w.expect("e", v1alpha1.ConditionProgressing, no, v1alpha1.ReasonSnapshotNotFound)

	w.snapshot("VolumeSnapshot", "monday", "status: {readyToUse: false}")
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonSnapshotNotReady)
	w.expect("e", v1alpha1.ConditionProgressing, yes, v1alpha1.ReasonSnapshotNotReady)
	w.snapshot("VolumeSnapshot", "monday", "status: {readyToUse: false, error: {message: no class}}")
	wake(w, e, "1")
	e = w.expect("e", v1alpha1.ConditionProgressing, no, v1alpha1.ReasonSnapshotFailed)
	says(t, message(e, v1alpha1.ConditionReady), "no class")

	snap := w.snapshot("VolumeSnapshot", "monday", "metadata: {finalizers: [example.test/hold]}\nstatus: {readyToUse: true, boundVolumeSnapshotContentName: none}")
	wake(w, e, "2")
	e = w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonInvalidVolume)
	says(t, message(e, v1alpha1.ConditionReady), "how large", "claim of your own")
	w.remove(snap)
	wake(w, e, "3")
	w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonSnapshotDeleting)
	w.noPod()
	w.snapshot("VolumeSnapshot", "monday", "metadata: {finalizers: []}")
	w.gone(snap)
	w.ready()
	w.pod("nbd-e", nil)
}

// TestSnapshotsUnsupported exports a snapshot where there are none, until there are. It
// doesn't run beside others: they may have snapshots.
func TestSnapshotsUnsupported(t *testing.T) {
	removeSnapshots(t)
	w := newWorld(t)
	w.export("e", ofSnapshot)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonSnapshotsUnsupported)
	says(t, message(e, v1alpha1.ConditionReady), "VolumeSnapshot monday", "snapshot.storage.k8s.io/v1", "external-snapshotter")
	installSnapshots(t)
	w.ready()
	wake(w, e, "1")
	w.pod("nbd-e", nil)
}

// TestSnapshotOfBlock restores the snapshot of a device whose claim is gone.
func TestSnapshotOfBlock(t *testing.T) {
	t.Parallel()
	installSnapshots(t)
	w := newWorld(t)
	w.snapshot("VolumeSnapshotContent", "content-"+w.ns, "spec: {sourceVolumeMode: Block}")
	w.snapshot("VolumeSnapshot", "monday", "spec: {source: {persistentVolumeClaimName: gone}}\n"+
		"status: {readyToUse: true, restoreSize: 2Gi, boundVolumeSnapshotContentName: content-"+w.ns+"}")
	w.export("path", strings.Replace(ofSnapshot, "name: monday", "name: monday, path: a.raw", 1))
	e := w.expect("path", v1alpha1.ConditionReady, no, v1alpha1.ReasonInvalidVolume)
	says(t, message(e, v1alpha1.ConditionReady), "VolumeSnapshot monday", "block device", "without the path")

	w.export("e", strings.Replace(ofSnapshot, "name: monday", "name: monday, storageClassName: slow", 1))
	c := w.pod("nbd-e", nil).Spec.Containers[0]
	if len(c.VolumeDevices) != 1 || c.VolumeDevices[0].DevicePath != "/dev/nbdexport/disk" {
		t.Errorf("devices: %+v", c.VolumeDevices)
	}
	if s := w.temporary("disk").Spec; *s.VolumeMode != corev1.PersistentVolumeBlock || *s.StorageClassName != "slow" {
		t.Errorf("the claim: %+v", s)
	}
}

// TestForeignTemporaryClaim finds a claim of somebody else under the name and leaves
// it alone. It starts when that is gone.
func TestForeignTemporaryClaim(t *testing.T) {
	t.Parallel()
	installSnapshots(t)
	w := newWorld(t)
	w.ready()
	foreign := w.claim(desired.TemporaryClaimName("e", "disk"), corev1.ReadWriteOnce, false)
	w.export("e", ofSnapshot)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonNameTaken)
	says(t, message(e, v1alpha1.ConditionReady), "PersistentVolumeClaim "+foreign.Name, "isn't this export's", "remove it")
	w.noPod()
	untouched(t, foreign, &corev1.PersistentVolumeClaim{})
	w.remove(foreign)
	w.release(foreign)
	w.pod("nbd-e", nil)
}

// TestSnapshotExportDeleted deletes an export that serves a snapshot. It waits for
// its pod and not for its claim.
func TestSnapshotExportDeleted(t *testing.T) {
	t.Parallel()
	installSnapshots(t)
	w := newWorld(t)
	snap := w.ready()
	w.export("e", ofSnapshot)
	pod := w.pod("nbd-e", nil)
	w.serve(pod)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	w.remove(w.read("e"))
	w.deleting(pod)
	w.settled("e")
	claim := w.temporary("disk")
	if !claim.DeletionTimestamp.IsZero() {
		t.Error("the claim was deleted before its pod had ended")
	}
	w.end(pod, "signal=SIGTERM", 0)
	w.gone(pod)
	w.gone(&v1alpha1.NBDExport{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "e"}})
	w.release(claim)
	untouched(t, snap, snap.DeepCopy())
}

// TestTemporaryClaimRefused restores to a claim that is larger than the namespace
// allows.
func TestTemporaryClaimRefused(t *testing.T) {
	t.Parallel()
	installSnapshots(t)
	w := newWorld(t)
	w.ready()
	w.must(&corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "small"},
		Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypePersistentVolumeClaim,
			Max: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}}}}})
	w.export("e", ofSnapshot)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonPodRejected)
	says(t, message(e, v1alpha1.ConditionReady), "temporary PersistentVolumeClaim "+desired.TemporaryClaimName("e", "disk"), "maximum storage usage per PersistentVolumeClaim is 1Mi")
	w.noPod()
}

// TestSnapshotAdmission applies snapshots that the API server has to refuse.
func TestSnapshotAdmission(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	for _, c := range []struct {
		name, old, new string
		want           []string
	}{
		{"to write", "tls:", "  access: ReadWrite\ntls:", []string{"spec.volumes[0].access", "a volumeSnapshot can't be ReadWrite", "restore the snapshot to a claim of your own"}},
		{"and a claim", "volumeSnapshot:", "persistentVolumeClaim: {claimName: disk}, volumeSnapshot:",
			[]string{"spec.volumes[0].source", "exactly one of the fields in [persistentVolumeClaim volumeSnapshot memory] must be set"}},
		{"without a name", "name: monday", "storageClassName: fast", []string{"spec.volumes[0].source.volumeSnapshot.name: Required value"}},
		{"elsewhere", "name: monday", "name: other/monday", []string{"spec.volumes[0].source.volumeSnapshot.name", "should match"}},
		{"class of two words", "name: monday", "name: monday, storageClassName: fast disk", []string{"spec.volumes[0].source.volumeSnapshot.storageClassName", "should match"}},
		{"empty class", "name: monday", "name: monday, storageClassName: \"\"", []string{"spec.volumes[0].source.volumeSnapshot.storageClassName", "at least 1 chars"}},
		{"absolute path", "name: monday", "name: monday, path: /etc/passwd", []string{"spec.volumes[0].source.volumeSnapshot.path", "relative to the root"}},
		{"path with comma", "name: monday", `name: monday, path: "a,access=read-write"`, []string{"spec.volumes[0].source.volumeSnapshot.path", "a comma, a colon"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := strings.Replace("volumes:\n- name: disk\n  source: {volumeSnapshot: {name: monday}}\ntls: {mode: Disabled}\n", c.old, c.new, 1)
			err := create(t, ns, "bad", spec)
			if err == nil {
				t.Fatal("was accepted")
			}
			says(t, err.Error(), c.want...)
		})
	}
	if err := create(t, ns, "good", strings.Replace(ofSnapshot, "exitWhen:", "  access: ReadOnly\nexitWhen:", 1)); err != nil {
		t.Error(err)
	}
}
