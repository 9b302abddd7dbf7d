package v1alpha1

const (
	// FinalizerDrain holds an NBDExport that is being deleted until its pod has
	// drained and ended.
	FinalizerDrain = "nbdexport.io/drain"
	// FinalizerReport holds an export's pod until its final report was read.
	FinalizerReport = "nbdexport.io/report"
	// LabelExport is the label on pods and Services that says which export they
	// belong to. Its value is the export's name, cut and hashed if it is longer
	// than 63 characters.
	LabelExport = "nbdexport.io/export"
	// AnnotationExport is the annotation on pods with the full name of the export,
	// which the label may not have.
	AnnotationExport = "nbdexport.io/export-name"
	// AnnotationNode is the annotation on pods that may run on one node only, because
	// their claims are in use there: the name of that node.
	AnnotationNode = "nbdexport.io/node"
	// AnnotationSpec is the annotation on pods with the generation of the spec that
	// the pod serves, and a digest of each field of it that made the pod.
	AnnotationSpec = "nbdexport.io/spec"
	// LabelTLS is the label on the Secrets that the operator makes: ca, server or
	// client. It reads no others, but those that a secretRef names.
	LabelTLS = "nbdexport.io/tls"
	// AuthoritySecret is the Secret in each namespace with the authority that signs
	// the certificates of its exports. It belongs to no export and stays.
	AuthoritySecret = "nbdexport-ca"
	// FieldOwner is the operator's name in the managed fields of what it applies.
	FieldOwner = "nbdexport"
)
