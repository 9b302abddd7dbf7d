package controller_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/nbdexport/nbdexport/controllers/desired"
	"github.com/nbdexport/nbdexport/nbdserver/report"
)

// ofSnapshot is an export of the snapshot "monday", until a file is created.
const ofSnapshot = `
volumes:
- name: disk
  source: {volumeSnapshot: {name: monday}}
exitWhen:
- name: stop
  fileCreated: {path: /run/nbdexport/stop}
tls: {mode: Disabled}
`

// snapshotKinds are the CRDs of snapshots.
func snapshotKinds(t *testing.T) (crds []*unstructured.Unstructured) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "snapshot-crds.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range strings.Split(string(text), "\n---\n") {
		crd := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &crd.Object); err != nil {
			t.Fatal(err)
		}
		crds = append(crds, crd)
	}
	return crds
}

// installSnapshots gives the API server the kinds of snapshots, if it hasn't got them.
// They stay: other tests may need them at the same time.
func installSnapshots(t *testing.T) {
	t.Helper()
	for _, crd := range snapshotKinds(t) {
		if err := kube.Create(context.Background(), crd); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
		kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
		list := func() error {
			objs := &unstructured.UnstructuredList{}
			objs.SetAPIVersion("snapshot.storage.k8s.io/v1")
			objs.SetKind(kind + "List")
			return kube.List(context.Background(), objs)
		}
		eventually(t, kind+" should be served", func() string { return complaint(list()) })
	}
}

// removeSnapshots takes the kinds of snapshots away that other tests have left, none of
// which may run.
func removeSnapshots(t *testing.T) {
	t.Helper()
	for _, crd := range snapshotKinds(t) {
		if err := client.IgnoreNotFound(kube.Delete(context.Background(), crd)); err != nil {
			t.Fatal(err)
		}
		eventually(t, crd.GetName()+" should be gone", func() string {
			if err := kube.Get(context.Background(), client.ObjectKeyFromObject(crd), crd); !apierrors.IsNotFound(err) {
				return "it is there"
			}
			return ""
		})
	}
}

func complaint(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

// snapshot makes a VolumeSnapshot or a VolumeSnapshotContent, or gives it other
// contents.
func (w *world) snapshot(kind, name, text string) *unstructured.Unstructured {
	w.Helper()
	obj := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &obj.Object); err != nil {
		w.Fatal(err)
	}
	obj.SetAPIVersion("snapshot.storage.k8s.io/v1")
	obj.SetKind(kind)
	obj.SetName(name)
	if kind == "VolumeSnapshot" {
		obj.SetNamespace(w.ns)
	}
	old := obj.DeepCopy()
	err := kube.Get(context.Background(), client.ObjectKeyFromObject(obj), old)
	if apierrors.IsNotFound(err) {
		w.must(obj)
		return obj
	}
	obj.SetResourceVersion(old.GetResourceVersion())
	if err := kube.Update(context.Background(), obj); err != nil {
		w.Fatal(err)
	}
	return obj
}

// ready makes the snapshot "monday", of a claim that isn't there any more.
func (w *world) ready() *unstructured.Unstructured {
	w.Helper()
	return w.snapshot("VolumeSnapshot", "monday", "status: {readyToUse: true, boundVolumeSnapshotContentName: none, restoreSize: 1Gi}")
}

// temporary waits for the temporary claim of a volume of the export "e".
func (w *world) temporary(volume string) *corev1.PersistentVolumeClaim {
	w.Helper()
	claim := &corev1.PersistentVolumeClaim{}
	eventually(w.T, "the temporary claim of "+volume, func() string {
		return complaint(kube.Get(context.Background(), w.key(desired.TemporaryClaimName("e", volume)), claim))
	})
	return claim
}

// report has the server of a pod end with a report, while another container goes on.
func (w *world) report(pod *corev1.Pod, condition string) {
	w.Helper()
	text, err := json.Marshal(report.Report{Condition: condition, StartedAt: time.Now(), FinishedAt: time.Now()})
	if err != nil {
		w.Fatal(err)
	}
	w.kubelet(pod, func(s *corev1.PodStatus) {
		s.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: string(text)}}
	})
}

// release lets a claim go that was deleted, as the cluster does when no pod has it.
func (w *world) release(claim *corev1.PersistentVolumeClaim) {
	w.Helper()
	eventually(w.T, "the claim "+claim.Name+" should be on its way out", func() string {
		get(w.T, client.ObjectKeyFromObject(claim), claim)
		if claim.DeletionTimestamp.IsZero() {
			return "it isn't"
		}
		return ""
	})
	base := claim.DeepCopy()
	claim.Finalizers = nil
	if err := kube.Patch(context.Background(), claim, client.MergeFrom(base)); err != nil {
		w.Fatal(err)
	}
	w.gone(claim)
}
