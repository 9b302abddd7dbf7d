package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "nbdexport.io", Version: "v1alpha1"}

// AddToScheme makes the kinds of this package known to a scheme.
var AddToScheme = newSchemeBuilder().AddToScheme

func newSchemeBuilder() *runtime.SchemeBuilder {
	b := runtime.NewSchemeBuilder(func(s *runtime.Scheme) error {
		s.AddKnownTypes(GroupVersion, &NBDExport{}, &NBDExportList{})
		metav1.AddToGroupVersion(s, GroupVersion)
		return nil
	})
	return &b
}
