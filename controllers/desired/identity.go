package desired

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/utils/ptr"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// user is who the containers run as, and the group that volumes are given to,
// unless the template says otherwise.
const user = 65532

// securityContext is the template's, within the Pod Security Standard
// "restricted".
func securityContext(template *v1alpha1.SecurityContext) *corev1ac.PodSecurityContextApplyConfiguration {
	s := ptr.Deref(template, v1alpha1.SecurityContext{})
	uid := ptr.Deref(s.RunAsUser, user)
	out := corev1ac.PodSecurityContext().
		WithRunAsNonRoot(true).
		WithRunAsUser(uid).
		WithRunAsGroup(ptr.Deref(s.RunAsGroup, uid)).
		WithFSGroup(ptr.Deref(s.FSGroup, uid)).
		WithFSGroupChangePolicy(corev1.PodFSGroupChangePolicy(ptr.Deref(s.FSGroupChangePolicy, v1alpha1.FSGroupOnRootMismatch))).
		WithSupplementalGroups(s.SupplementalGroups...).
		WithSeccompProfile(corev1ac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))
	if o := s.SELinuxOptions; o != nil {
		out.WithSELinuxOptions(&corev1ac.SELinuxOptionsApplyConfiguration{Level: o.Level, Type: (*string)(o.Type)})
	}
	return out
}

// sharesProcesses tells whether the containers of the pod have to see each other's
// processes. They can then end each other, and read each other's memory where
// they run as the same user: no pod does it without need.
func sharesProcesses(e *v1alpha1.NBDExport) bool {
	for _, c := range e.Spec.ExitWhen {
		if c.ProcessExited != nil {
			return true
		}
	}
	return false
}

// podLabels are the template's, and ours, which it can't replace.
func podLabels(e *v1alpha1.NBDExport) map[string]string {
	out := stringsOf(e.Spec.GetTemplate().Labels)
	maps.Copy(out, Labels(e.Name))
	return out
}

// podAnnotations are the template's, and ours, of which it can replace what only
// kubectl reads.
func podAnnotations(e *v1alpha1.NBDExport, f Facts) map[string]string {
	out := map[string]string{"kubectl.kubernetes.io/default-container": ServerContainer}
	maps.Copy(out, stringsOf(e.Spec.GetTemplate().Annotations))
	out[v1alpha1.AnnotationExport] = e.Name
	out[v1alpha1.AnnotationSpec] = Stamp(e)
	if f.Node != "" {
		out[v1alpha1.AnnotationNode] = f.Node
	}
	return out
}

// stringsOf are labels or annotations as Kubernetes' own types have them.
func stringsOf[V ~string](in map[string]V) map[string]string {
	out := make(map[string]string, len(in))
	for k, v := range in {
		out[k] = string(v)
	}
	return out
}
