package controller_test

import (
	"context"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// TestRefusedInOtherWords has a policy refuse the pod in other words each time. The
// status isn't written at each try, and the export isn't tried at each writing.
func TestRefusedInOtherWords(t *testing.T) {
	t.Parallel()
	w, _ := newWorldOnClock(t) // other words are written after half a minute
	policy := &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: w.ns},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: ptr.To(admissionv1.Fail),
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}}}},
			MatchConditions: []admissionv1.MatchCondition{{Name: "here", Expression: "request.namespace == '" + w.ns + "' && request.name == 'nbd-e'"}},
			Validations:     []admissionv1.Validation{{Expression: "false", MessageExpression: "'denied as ' + string(object.metadata.uid)"}},
		},
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: w.ns},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: w.ns,
			ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
	}
	w.must(policy)
	w.must(binding)
	t.Cleanup(func() { kube.Delete(context.Background(), binding); kube.Delete(context.Background(), policy) })
	refusedByPolicy(w)

	w.user("vm", "node-1", "")
	w.export("e", untilVMGone)
	e := w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonPodRejected)
	says(t, message(e, v1alpha1.ConditionReady), "denied as ")
	for _, value := range []string{"1", "2", "3"} {
		wake(w, e, value) // has it tried again
		w.settled("e-" + value)
	}
	got := w.read("e")
	if want := message(e, v1alpha1.ConditionReady); message(got, v1alpha1.ConditionReady) != want {
		t.Errorf("the status was written for other words: %q, was %q", message(got, v1alpha1.ConditionReady), want)
	}
}

// refusedByPolicy waits until the API server has taken notice of a policy.
func refusedByPolicy(w *world) {
	w.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "nbd-e"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.test/c"}}}}
	eventually(w.T, "the policy should hold", func() string {
		if kube.Create(context.Background(), pod.DeepCopy(), client.DryRunAll) == nil {
			return "it doesn't"
		}
		return ""
	})
}
