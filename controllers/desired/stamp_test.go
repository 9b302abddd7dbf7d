package desired

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// stamped is an export whose pod was made for its third spec.
func stamped() (*v1alpha1.NBDExport, string) {
	e := &v1alpha1.NBDExport{ObjectMeta: metav1.ObjectMeta{Generation: 3}, Spec: v1alpha1.NBDExportSpec{
		Volumes: []v1alpha1.Volume{{Name: "disk", Source: v1alpha1.VolumeSource{
			PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "disk"}}, Access: ptr.To(v1alpha1.ReadOnly)}},
		ExitWhen: []v1alpha1.ExitCondition{
			{Name: "stop", FileCreated: &v1alpha1.FileCondition{Path: "/run/nbdexport/stop"}},
			{Name: "vm-gone", PodDeleted: &v1alpha1.PodDeleted{Name: ptr.To("vm")}},
			{Name: "done", ObjectCondition: &v1alpha1.ObjectCondition{Kind: "Job", Name: "backup"}},
		},
		PollSeconds: ptr.To[int32](60),
		Drain:       &v1alpha1.Drain{TimeoutSeconds: ptr.To[int32](60)},
		TLS:         &v1alpha1.TLS{Mode: ptr.To(v1alpha1.TLSDisabled)},
		Service:     &v1alpha1.Service{Port: ptr.To[int32](10809)},
	}}
	return e, Stamp(e)
}

// TestChanged changes the spec, and looks which fields take a new pod.
func TestChanged(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*v1alpha1.NBDExport)
		want   []string
	}{
		{"nothing", func(*v1alpha1.NBDExport) {}, nil},
		{"access", func(e *v1alpha1.NBDExport) { e.Spec.Volumes[0].Access = ptr.To(v1alpha1.ReadWrite) }, []string{"volumes"}},
		{"poll and drain", func(e *v1alpha1.NBDExport) {
			e.Spec.PollSeconds, e.Spec.Drain.TimeoutSeconds = ptr.To[int32](1), ptr.To[int32](61)
		}, []string{"drain", "pollSeconds"}},
		{"tls", func(e *v1alpha1.NBDExport) { e.Spec.TLS.Mode = ptr.To(v1alpha1.TLSMode("Required")) }, []string{"tls"}},
		{"a template", func(e *v1alpha1.NBDExport) {
			e.Spec.Template = &v1alpha1.PodTemplate{NodeSelector: map[string]string{"a": "b"}}
		}, []string{"template"}},
		{"an empty template", func(e *v1alpha1.NBDExport) { e.Spec.Template = &v1alpha1.PodTemplate{} }, nil},
		{"a companion's variable", func(e *v1alpha1.NBDExport) {
			e.Spec.Template = &v1alpha1.PodTemplate{Containers: []corev1.Container{{Name: "c", Env: []corev1.EnvVar{{Name: "a"}}}}}
		}, []string{"template"}},
		{"limits", func(e *v1alpha1.NBDExport) { e.Spec.Limits = &v1alpha1.Limits{Connections: ptr.To[int32](3)} }, nil},
		{"port", func(e *v1alpha1.NBDExport) { e.Spec.Service.Port = ptr.To[int32](1) }, nil},
		{"time to live", func(e *v1alpha1.NBDExport) { e.Spec.TTLSecondsAfterFinished = ptr.To[int32](0) }, nil},
		{"file", func(e *v1alpha1.NBDExport) { e.Spec.ExitWhen[0].FileCreated.Path = "/run/nbdexport/end" }, []string{"exitWhen"}},
		{"file taken out", func(e *v1alpha1.NBDExport) { e.Spec.ExitWhen = e.Spec.ExitWhen[1:] }, []string{"exitWhen"}},
		{"all taken out", func(e *v1alpha1.NBDExport) { e.Spec.ExitWhen = nil }, []string{"exitWhen"}},
		{"deadline moved", func(e *v1alpha1.NBDExport) {
			e.Spec.ExitWhen = append(e.Spec.ExitWhen, v1alpha1.ExitCondition{Name: "over", Deadline: &v1alpha1.Deadline{Time: ptr.To(metav1.NewTime(time.Unix(0, 0)))}})
		}, []string{"exitWhen"}},
		{"condition called otherwise", func(e *v1alpha1.NBDExport) { e.Spec.ExitWhen[0].Name = "end" }, nil},
		{"pod that ends it", func(e *v1alpha1.NBDExport) { e.Spec.ExitWhen[1].PodDeleted.Name = ptr.To("vm-2") }, nil},
		{"what the operator watches, taken out", func(e *v1alpha1.NBDExport) { e.Spec.ExitWhen = e.Spec.ExitWhen[:1] }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, stamp := stamped()
			c.change(e)
			if got := Changed(e, stamp); got != nil {
				t.Errorf("in the same generation: %v", got)
			}
			e.Generation = 4
			if got := Changed(e, stamp); !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
			if !Stale(e, stamp) || Stale(e, Stamp(e)) {
				t.Error("a stamp of the generation before isn't stale, or a fresh one is")
			}
		})
	}
}

// TestOtherOperator reads stamps of a version of the operator that made other digests, or
// none at all.
func TestOtherOperator(t *testing.T) {
	e, stamp := stamped()
	older := strings.Replace(stamp, ",tls=", ",cipher=01234567,tls=0", 1)
	if got := Changed(e, older); got != nil || !Stale(e, older) {
		t.Errorf("%s: changed %v, stale %v", older, got, Stale(e, older))
	}
	e.Generation = 4
	if got := Changed(e, older); !slices.Equal(got, []string{"cipher", "tls"}) {
		t.Errorf("the spec changed with it: %v", got)
	}
	for _, none := range []string{"", "generation=", "generation=x,tls=1", "tls=1"} {
		if got := Changed(e, none); got != nil || !Stale(e, none) {
			t.Errorf("%q: changed %v, stale %v", none, got, Stale(e, none))
		}
	}
	// An old copy of the export says nothing about a younger pod.
	e.Generation = 2
	e.Spec.PollSeconds = ptr.To[int32](7)
	if Changed(e, stamp) != nil || Stale(e, stamp) {
		t.Error("a pod is judged by a spec that is older than it")
	}
}
