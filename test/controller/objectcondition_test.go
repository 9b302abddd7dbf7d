package controller_test

import (
	"context"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// untilObject is an export that ends with a condition of an object.
func untilObject(object string) string {
	return "volumes: [{name: a, source: {memory: {size: 1}}}]\ntls: {mode: Disabled}\npollSeconds: 1\n" +
		"exitWhen: [{name: it-is, objectCondition: {" + object + "}}]"
}

// TestObjectCondition serves until a pod is there that isn't ready.
func TestObjectCondition(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.export("e", untilObject("apiVersion: v1, kind: Pod, name: vm, condition: Ready, status: \"False\""))
	pod := w.pod("nbd-e", nil)
	w.serve(pod)
	w.expect("e", v1alpha1.ConditionReady, yes, v1alpha1.ReasonServing)
	vm := w.user("vm", "node-1", "")
	w.kubelet(vm, func(s *corev1.PodStatus) {
		s.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	})
	w.settled("e")
	if x := w.read("e").Status.Exit; x != nil {
		t.Fatalf("the pod is ready, but: %+v", x)
	}
	w.kubelet(vm, func(s *corev1.PodStatus) { s.Conditions[0].Status = corev1.ConditionFalse })
	w.deleting(pod)
	if x := w.read("e").Status.Exit; x == nil || x.Condition != "it-is" || x.Reason != v1alpha1.ExitObjectCondition {
		t.Errorf("exit: %+v", x)
	}
	w.end(pod, "signal=SIGTERM", 0)
	w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonDrained)
}

// TestObjectUnwatchable names a kind that doesn't exist, and one that the operator
// may not get until it is given the right to.
func TestObjectUnwatchable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.export("unknown", untilObject("apiVersion: example.test/v1, kind: Moon, name: a, condition: Full"))
	e := w.expect("unknown", v1alpha1.ConditionReady, no, v1alpha1.ReasonInvalidCondition)
	says(t, message(e, v1alpha1.ConditionReady), "exit condition it-is", "no kind Moon in example.test/v1")

	w.export("e", untilObject("apiVersion: apps/v1, kind: Deployment, name: app, condition: Available"))
	e = w.expect("e", v1alpha1.ConditionReady, no, v1alpha1.ReasonInvalidCondition)
	says(t, message(e, v1alpha1.ConditionReady), "exit condition it-is", "may not get objects of kind Deployment in apps/v1", "service account")
	w.noPod()

	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "objects"},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get"}}}}
	w.must(role)
	w.must(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "objects"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: "system:serviceaccount:nbdexport-system:nbdexport-manager"}}})
	w.pod("nbd-e", nil)

	labels := map[string]string{"app": "app"}
	app := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "app"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "example.test/a"}}}}}}
	w.must(app)
	base := app.DeepCopy()
	app.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue}}
	if err := kube.Status().Patch(context.Background(), app, client.MergeFrom(base)); err != nil {
		t.Fatal(err)
	}
	w.expect("e", v1alpha1.ConditionComplete, yes, v1alpha1.ReasonNeverStarted)
}
