package controllers

import (
	"fmt"
	"reflect"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
	"github.com/nbdexport/nbdexport/controllers/desired"
)

// TestUndefaulted decides about exports in which no field is set that may be absent,
// and makes their objects: each kind of volume with each exit condition, in structs that
// are absent and that are empty. Nothing panics.
func TestUndefaulted(t *testing.T) {
	for _, empty := range []bool{false, true} {
		for _, source := range members[v1alpha1.VolumeSource]() {
			for _, condition := range append(members[v1alpha1.ExitCondition](), v1alpha1.ExitCondition{}) {
				for name, now := range map[string]func(*observed){
					"new":      func(*observed) {},
					"serving":  func(o *observed) { runs(withPod(o)) },
					"drained":  func(o *observed) { over(withPod(o), 0, reportOf(t, "control=drain", 0)) },
					"deleting": func(o *observed) { o.export.DeletionTimestamp = ptr.To(metav1.NewTime(noon)) },
				} {
					t.Run(fmt.Sprintf("empty=%v/%s/%s/%s", empty, member(source), member(condition), name), func(t *testing.T) {
						o := scene()
						o.export = undefaulted(o.export.ObjectMeta, source, condition, empty)
						now(o)
						p := decide(o)
						if name == "new" && member(condition) == "" && source.VolumeSnapshot == nil &&
							(p.pod != podCreate || !p.certify || !p.applyService || !p.applyConfigMap || !p.applyNetworkPolicy) {
							t.Errorf("an export with nothing but a volume isn't served as by default: %+v", p)
						}
						makeAll(t, o, p)
					})
				}
			}
		}
	}
}

// makeAll makes what a plan may ask for, and what others ask of an export.
func makeAll(t *testing.T, o *observed, p plan) {
	t.Helper()
	e := o.export
	if _, err := desired.Pod(e, o.follow()); err != nil {
		t.Error(err)
	}
	if _, err := desired.NetworkPolicy(e); err != nil {
		t.Error(err)
	}
	desired.Service(e)
	desired.ConfigMap(e)
	desired.ServerCredential(e, nil)
	desired.ClientCredential(e)
	conflict(e, e.DeepCopy(), "disk")
	before(e, e.DeepCopy())
	selectors(e)
	targetNames(e)
	p.hear(o)
	statesOf([]v1alpha1.NBDExport{*e})
	news(e.GetStatus(), statusOf(e, p))
}

// undefaulted is an export of two volumes of one kind with one exit condition.
func undefaulted(m metav1.ObjectMeta, source v1alpha1.VolumeSource, condition v1alpha1.ExitCondition, empty bool) *v1alpha1.NBDExport {
	if c := source.PersistentVolumeClaim; c != nil {
		c.ClaimName = "disk"
	}
	e := &v1alpha1.NBDExport{ObjectMeta: m, Spec: v1alpha1.NBDExportSpec{
		Volumes: []v1alpha1.Volume{{Name: "a", Source: source}, {Name: "b", Source: source, Access: ptr.To(v1alpha1.CopyOnWrite)}},
	}}
	if member(condition) != "" {
		condition.Name = "it"
		e.Spec.ExitWhen = []v1alpha1.ExitCondition{condition}
	}
	if empty {
		e.Status = &v1alpha1.NBDExportStatus{}
		spec := reflect.ValueOf(&e.Spec).Elem()
		for i := range spec.NumField() {
			if f := spec.Field(i); f.Kind() == reflect.Pointer && f.Type().Elem().Kind() == reflect.Struct {
				f.Set(reflect.New(f.Type().Elem()))
			}
		}
	}
	return e
}

// members are the variants of a union, with nothing in them.
func members[T any]() []T {
	var out []T
	for i := range reflect.TypeFor[T]().NumField() {
		var v T
		if f := reflect.ValueOf(&v).Elem().Field(i); f.Kind() == reflect.Pointer {
			f.Set(reflect.New(f.Type().Elem()))
			out = append(out, v)
		}
	}
	return out
}

// member is the name of the field that is set of a union; empty if none is.
func member(union any) string {
	v := reflect.ValueOf(union)
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			return v.Type().Field(i).Name
		}
	}
	return ""
}
