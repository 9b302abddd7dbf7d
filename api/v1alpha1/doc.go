// Package v1alpha1 is version v1alpha1 of the API group nbdexport.io. Its one
// kind, NBDExport, says: this volume, at this URI, until this happens.
//
// The descriptions in the CustomResourceDefinition are the comments of this
// package. What kubectl shows, and what other programs wait for (reasons of
// conditions, names of labels and finalizers), are constants here and don't
// change within a version.
//
// +kubebuilder:object:generate=true
// +groupName=nbdexport.io
package v1alpha1
