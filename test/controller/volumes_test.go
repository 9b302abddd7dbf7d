package controller_test

import (
	"strings"
	"testing"

	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestSeveralVolumes offers volumes of three kinds by one pod, each under a URI of
// its own.
func TestSeveralVolumes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.claim("block", "ReadWriteOnce", true)
	w.claim("disk", "ReadWriteOnce", false)
	w.export("e", `
volumes:
- {name: root, source: {persistentVolumeClaim: {claimName: block}}, access: ReadWrite}
- {name: data, source: {persistentVolumeClaim: {claimName: disk, path: data.raw}}}
- {name: scratch, source: {memory: {size: 1Mi}}, access: ReadWrite}
tls: {mode: Disabled}
`)
	args := strings.Join(w.pod("nbd-e", nil).Spec.Containers[0].Args, " ")
	says(t, args, "root=/dev/nbdexport/root,access=read-write data=data.raw,root=/volumes/data,access=read-only scratch=memory:1048576,access=read-write")
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonStarting)
	var got []string
	for _, v := range e.Status.Volumes {
		got = append(got, v.Name+" "+v.URI)
	}
	base := "nbd://nbd-e." + w.ns + ".svc:10809/"
	if want := "root " + base + "root, data " + base + "data, scratch " + base + "scratch"; strings.Join(got, ", ") != want || ptr.Deref(e.Status.URI, "") != base+"root" {
		t.Errorf("URI %s, of the volumes %v", ptr.Deref(e.Status.URI, ""), got)
	}
}
