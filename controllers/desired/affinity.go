package desired

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// affinity is that of the template, within the one node where the claims can be
// mounted, if there is such a limit. It is nil where any node will do.
func affinity(e *v1alpha1.NBDExport, f Facts) (*corev1ac.AffinityApplyConfiguration, error) {
	a := e.Spec.GetTemplate().Affinity.DeepCopy()
	if f.Node != "" {
		if a == nil {
			a = &corev1.Affinity{}
		}
		a.NodeAffinity = within(a.NodeAffinity, f.Node)
	}
	if a == nil {
		return nil, nil
	}
	ac, err := convert[corev1ac.AffinityApplyConfiguration](a)
	if err != nil {
		return nil, fmt.Errorf("spec.template.affinity: %w", err)
	}
	return ac, nil
}

// within lets the scheduler take one node only, by its name: unlike spec.nodeName it
// doesn't go past the scheduler's other checks. Of the terms of an affinity one is
// enough, so that the name goes into each of them. A term without any
// requirement matches no node, and is left so.
func within(a *corev1.NodeAffinity, node string) *corev1.NodeAffinity {
	name := corev1.NodeSelectorRequirement{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node}}
	if a == nil {
		a = &corev1.NodeAffinity{}
	}
	if a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		a.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
			{MatchFields: []corev1.NodeSelectorRequirement{name}},
		}}
		return a
	}
	terms := a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	for i, t := range terms {
		if len(t.MatchExpressions)+len(t.MatchFields) > 0 {
			terms[i].MatchFields = append(t.MatchFields, name)
		}
	}
	return a
}
