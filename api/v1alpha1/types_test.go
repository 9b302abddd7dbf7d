package v1alpha1

import (
	"testing"

	"k8s.io/utils/ptr"
)

func TestGrace(t *testing.T) {
	zero, ten := int32(0), int32(10)
	for _, c := range []struct {
		drain Drain
		want  int32
	}{
		{Drain{TimeoutSeconds: ptr.To[int32](600)}, 540},
		{Drain{TimeoutSeconds: ptr.To[int32](1)}, 0},
		{Drain{TimeoutSeconds: ptr.To[int32](86400)}, 77760},
		{Drain{TimeoutSeconds: ptr.To[int32](600), GraceSeconds: &zero}, 0},
		{Drain{TimeoutSeconds: ptr.To[int32](600), GraceSeconds: &ten}, 10},
	} {
		if got := c.drain.Grace(); got != c.want {
			t.Errorf("%+v: %d, want %d", c.drain, got, c.want)
		}
	}
}

func TestFile(t *testing.T) {
	if got := (ClaimSource{}).File(); got != "disk.img" {
		t.Errorf("without a path: %q", got)
	}
	if got := (ClaimSource{Path: ptr.To(FilePath("a/b.raw"))}).File(); got != "a/b.raw" {
		t.Errorf("with a path: %q", got)
	}
}
