package controllers

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// temporary is the name of the claim of the scene's volume "disk".
var temporary = desired.TemporaryClaimName("e", "disk")

// sceneOfSnapshot is the scene with a snapshot in the place of the claim, ready to be
// restored.
func sceneOfSnapshot() *observed {
	o := scene()
	o.export.Spec.Volumes[0].Source = v1alpha1.VolumeSource{VolumeSnapshot: &v1alpha1.SnapshotSource{Name: "monday"}}
	o.claims = nil
	o.temporary = map[string]*corev1.PersistentVolumeClaim{}
	o.snapshots = map[string]snapshot{"disk": {facts: desired.SnapshotFacts{Size: resource.MustParse("1Gi"), Mode: corev1.PersistentVolumeBlock}}}
	return o
}

// restored gives the export its temporary claim, bound.
func restored(o *observed) *corev1.PersistentVolumeClaim {
	claim := desired.TemporaryClaim(o.export, o.export.Spec.Volumes[0], o.snapshots["disk"].facts)
	claim.Status.Phase = corev1.ClaimBound
	o.temporary[claim.Name] = claim
	o.snapshots = nil
	return claim
}

// TestTemporaryClaim has a row for each step in the life of a temporary claim.
func TestTemporaryClaim(t *testing.T) {
	now := metav1.NewTime(noon)
	complete := func(o *observed) {
		restored(o)
		o.export.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionComplete, Status: metav1.ConditionTrue}}
	}
	going := func(o *observed) {
		restored(o)
		o.export.DeletionTimestamp = &now
	}
	trouble := func(reason string) func(*observed) {
		return func(o *observed) { o.snapshots["disk"] = snapshot{trouble: finding{reason, "because"}} }
	}
	unscheduled := func(o *observed) {
		withPod(o).Spec.NodeName = ""
		o.pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "unbound"}}
	}
	for _, c := range []struct {
		name  string
		scene func(*observed)

		makes, removes bool
		pod            podAction
		releasePod     bool
		releaseExport  bool
		ready          string
		words          []string // of the message
	}{
		{name: "snapshot ready", scene: func(*observed) {}, makes: true, ready: "False Starting", words: []string{"being restored"}},
		{name: "snapshot missing", scene: trouble(v1alpha1.ReasonSnapshotNotFound), ready: "False SnapshotNotFound"},
		{name: "snapshot not ready", scene: trouble(v1alpha1.ReasonSnapshotNotReady), ready: "False SnapshotNotReady"},
		{name: "restored", scene: func(o *observed) { restored(o) }, pod: podCreate, ready: "False Starting", words: []string{"is being made"}},
		{name: "not restored yet", scene: func(o *observed) { restored(o).Status.Phase = corev1.ClaimPending },
			pod: podCreate, ready: "False Starting"},
		{name: "not restored yet, snapshot being deleted", scene: func(o *observed) {
			restored(o).Status.Phase = corev1.ClaimPending
			o.snapshots = map[string]snapshot{"disk": {trouble: finding{v1alpha1.ReasonSnapshotDeleting, "because"}}}
		}, pod: podCreate, ready: "False Starting"},
		{name: "not restored yet, snapshot gone", scene: func(o *observed) {
			restored(o).Status.Phase = corev1.ClaimPending
			o.snapshots = map[string]snapshot{"disk": {trouble: finding{v1alpha1.ReasonSnapshotNotFound, "because"}}}
		}, ready: "False SnapshotNotFound"},
		{name: "pod waits for it", scene: func(o *observed) {
			restored(o).Status.Phase = corev1.ClaimPending
			unscheduled(o)
		}, ready: "False ClaimPending", words: []string{temporary, "Events", "storageClassName", "unbound"}},
		{name: "pod waits for something else", scene: func(o *observed) { restored(o); unscheduled(o) }, ready: "False Unschedulable"},
		{name: "claim lost", scene: func(o *observed) { restored(o).Status.Phase = corev1.ClaimLost },
			ready: "False ClaimLost", words: []string{temporary, "delete it"}},
		{name: "claim deleted by hand", scene: func(o *observed) { restored(o).DeletionTimestamp = &now },
			ready: "False Starting", words: []string{temporary, "restored anew when it is gone"}},
		{name: "claim of another snapshot", scene: func(o *observed) { restored(o).Spec.DataSourceRef.Name = "sunday" },
			removes: true, ready: "False Starting", words: []string{"being restored"}},
		{name: "claim of a volume that is no more", scene: func(o *observed) {
			old := restored(o).DeepCopy()
			old.Name = "nbd-e-old"
			o.temporary[old.Name] = old
		}, removes: true, ready: "False Starting"},
		{name: "name taken", scene: func(o *observed) { restored(o).OwnerReferences = nil },
			ready: "False NameTaken", words: []string{temporary, "isn't this export's", "remove it"}},
		{name: "claim of an earlier export", scene: func(o *observed) { restored(o).OwnerReferences[0].UID = "0" },
			ready: "False NameTaken", words: []string{temporary, "earlier export"}},
		{name: "in the template too", scene: func(o *observed) { restored(o); o.export.Spec.Template = templateVolume(temporary) },
			ready: "False InvalidVolume", words: []string{temporary}},
		{name: "serves", scene: func(o *observed) {
			restored(o)
			withPod(o).Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}, ready: "True Serving"},

		{name: "complete, pod still ends", scene: func(o *observed) { complete(o); deleted(withPod(o)) }},
		{name: "complete, server has ended and a companion hasn't", scene: func(o *observed) {
			complete(o)
			server(withPod(o), terminated(0, reportOf(t, "file-created=/run/nbdexport/stop", 0)))
		}},
		{name: "complete, report still held", scene: func(o *observed) {
			complete(o)
			over(withPod(o), 0, reportOf(t, "file-created=/run/nbdexport/stop", 0))
		}, releasePod: true},
		{name: "complete, pod over", scene: func(o *observed) {
			complete(o)
			over(withPod(o), 0, reportOf(t, "file-created=/run/nbdexport/stop", 0))
			o.pod.Finalizers = nil
		}, removes: true, pod: podRemove},
		{name: "complete, no pod", scene: complete, removes: true},
		{name: "complete, claim on its way", scene: func(o *observed) {
			complete(o)
			o.temporary[temporary].DeletionTimestamp = &now
		}},
		{name: "complete, pod over and claim gone", scene: func(o *observed) {
			complete(o)
			o.temporary = nil
			over(withPod(o), 0, "")
			o.pod.Finalizers = nil
		}},
		{name: "export deleted", scene: func(o *observed) { going(o); withPod(o) }, pod: podRemove, ready: "False Deleting"},
		{name: "export deleted, pod still ends", scene: func(o *observed) { going(o); deleted(withPod(o)) }, ready: "False Deleting"},
		{name: "export deleted, pod over", scene: func(o *observed) {
			going(o)
			over(withPod(o), 0, "")
			o.pod.Finalizers = nil
		}, removes: true, releaseExport: true},
		{name: "export deleted, no pod", scene: going, removes: true, releaseExport: true},
		{name: "export deleted, claim held by somebody", scene: func(o *observed) {
			going(o)
			o.temporary[temporary].DeletionTimestamp = &now
		}, releaseExport: true},
		{name: "export deleted, claim is somebody else's", scene: func(o *observed) {
			going(o)
			o.temporary[temporary].OwnerReferences = nil
		}, releaseExport: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := sceneOfSnapshot()
			c.scene(o)
			p := decide(o)
			if len(p.makeClaims) > 0 != c.makes || len(p.removeClaims) > 0 != c.removes {
				t.Errorf("makes %v, removes %v", p.makeClaims, p.removeClaims)
			}
			if p.pod != c.pod || p.releasePod != c.releasePod || p.releaseExport != c.releaseExport {
				t.Errorf("pod %v, release pod %v, release export %v", p.pod, p.releasePod, p.releaseExport)
			}
			got, message := said(p, v1alpha1.ConditionReady)
			if got != c.ready {
				t.Errorf("ready is %q (%s), want %q", got, message, c.ready)
			}
			expectFinding(t, finding{message: message}, "", c.words)
		})
	}
}

// TestSnapshotProgress tells what passes by itself from what doesn't.
func TestSnapshotProgress(t *testing.T) {
	for reason, want := range map[string]string{
		v1alpha1.ReasonSnapshotNotReady: "True SnapshotNotReady",
		v1alpha1.ReasonSnapshotNotFound: "False SnapshotNotFound",
		v1alpha1.ReasonSnapshotFailed:   "False SnapshotFailed",
	} {
		o := sceneOfSnapshot()
		o.snapshots["disk"] = snapshot{trouble: finding{reason, "because"}}
		p := decide(o)
		if got, _ := said(p, v1alpha1.ConditionProgressing); got != want || p.again != snapshotDelay {
			t.Errorf("progressing is %s, again in %v", got, p.again)
		}
	}
}

// TestRestoreNeeds makes what is missing of several volumes, as the snapshot has it,
// and removes what isn't needed.
func TestRestoreNeeds(t *testing.T) {
	o := sceneOfSnapshot()
	o.export.Spec.Volumes = append(o.export.Spec.Volumes, v1alpha1.Volume{Name: "more",
		Source: v1alpha1.VolumeSource{VolumeSnapshot: &v1alpha1.SnapshotSource{Name: "tuesday"}}})
	facts := o.snapshots["disk"].facts
	restored(o)
	o.snapshots = map[string]snapshot{"more": {facts: facts}}
	p := decide(o)
	if len(p.makeClaims) != 1 || len(p.removeClaims) != 0 {
		t.Fatalf("makes %v, removes %v", p.makeClaims, p.removeClaims)
	}
	c := p.makeClaims[0]
	if c.Name != desired.TemporaryClaimName("e", "more") || c.Spec.DataSourceRef.Name != "tuesday" || !isBlockClaim(c) || c.Spec.Resources.Requests.Storage().String() != "1Gi" {
		t.Errorf("%+v", c)
	}
	if modes := o.follow().Modes; modes[temporary] != corev1.PersistentVolumeBlock {
		t.Errorf("modes: %v", modes)
	}
}

// TestTemporaryOutsideRivals lets two exports of one snapshot be served.
func TestTemporaryOutsideRivals(t *testing.T) {
	o := sceneOfSnapshot()
	restored(o)
	rival := another("first", v1alpha1.ReadWrite, noon.Add(-1))
	rival.Spec.Volumes = slices.Clone(o.export.Spec.Volumes)
	o.others = []v1alpha1.NBDExport{rival}
	if p := decide(o); p.pod != podCreate {
		t.Errorf("%+v", p.say)
	}
}
