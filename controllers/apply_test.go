package controllers

import (
	"errors"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestRefused(t *testing.T) {
	forbidden := func(causes ...metav1.StatusCause) error {
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: "no",
			Details: &metav1.StatusDetails{Causes: causes},
		}}
	}
	tests := []struct {
		name      string
		err       error
		said, out bool // a condition says it; the error is returned
	}{
		{"no error", nil, false, false},
		{"a quota or a policy", forbidden(), true, true},
		{"the namespace is being deleted", forbidden(metav1.StatusCause{Type: corev1.NamespaceTerminatingCause}), false, false},
		{"invalid", apierrors.NewBadRequest("no"), true, true},
		{"the API server is down", errors.New("connection refused"), false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p plan
			if out := p.refused("the pod", tt.err); (out != nil) != tt.out {
				t.Errorf("error %v", out)
			}
			if said := len(p.say) > 0; said != tt.said {
				t.Errorf("says %v", p.say)
			}
		})
	}
}
