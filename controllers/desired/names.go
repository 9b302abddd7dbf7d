package desired

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"strconv"
	"strings"

	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// maxName is the longest name of a Service, and value of a label.
const maxName = 63

// ChildName is the name of the pod, the Service, the ConfigMap and the NetworkPolicy of an
// export. It is always
// the same for the same export: two pods of one export can't exist. An altered name
// ends in a hash, because "a.b" and "a-b" are two exports.
func ChildName(export string) string {
	return cut(maxName, "nbd-"+strings.ReplaceAll(export, ".", "-"), "nbd-"+export)
}

// TemporaryClaimName is the name of the claim to which the snapshot of a volume is
// restored. It always ends in a hash: the export "a-b" with the volume "c" isn't
// "a" with "b-c".
func TemporaryClaimName(export, volume string) string {
	return hashed(maxName, "nbd-"+strings.ReplaceAll(export, ".", "-")+"-"+volume, "-", export+"/"+volume)
}

// SecretName is the name of a Secret of an export, whose role is at its end however
// long the export's name is.
func SecretName(export, role string) string {
	name := "nbd-" + strings.ReplaceAll(export, ".", "-")
	return cut(maxName-len(role)-1, name, "nbd-"+export) + "-" + role
}

// LabelValue is the value of v1alpha1.LabelExport for an export. Services and
// NetworkPolicies find pods by it, so that no two exports may have the same. An altered
// one has an underscore in it, which is in no export's name, and its hash is that
// of ChildName: of two exports with the same hash the second finds its name taken.
func LabelValue(export string) string {
	if len(export) <= maxName {
		return export
	}
	return hashed(maxName, export, "_", "nbd-"+export)
}

// cut cuts a name to a limit, and marks one that differs from the original with a
// hash of that.
func cut(limit int, name, original string) string {
	if name == original && len(name) <= limit {
		return name
	}
	return hashed(limit, name, "-", original)
}

// hashed cuts a name to a limit with a separator and a hash of the original at its end.
func hashed(limit int, name, separator, original string) string {
	sum := sha256.Sum256([]byte(original))
	hash := hex.EncodeToString(sum[:4])
	if rest := limit - len(hash) - len(separator); len(name) > rest {
		name = strings.TrimRight(name[:rest], "-.")
	}
	return name + separator + hash
}

// Labels are on everything that is made for an export.
func Labels(export string) map[string]string {
	l := map[string]string{
		"app.kubernetes.io/name":       "nbdexport",
		"app.kubernetes.io/instance":   LabelValue(export),
		"app.kubernetes.io/managed-by": "nbdexport",
	}
	maps.Copy(l, selector(export))
	return l
}

// selector are the labels by which the Service finds the pod.
func selector(export string) map[string]string {
	return map[string]string{v1alpha1.LabelExport: LabelValue(export)}
}

// URI is where a volume is offered within the cluster; of the scheme nbds if clients
// must use TLS, which has them do so. The port is written out even if it is NBD's
// own, for clients that don't know one.
func URI(e *v1alpha1.NBDExport, volume string) string {
	scheme := "nbd"
	if e.Spec.TLS.Enabled() {
		scheme = "nbds"
	}
	host := fmt.Sprintf("%s.%s.svc", ChildName(e.Name), e.Namespace)
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(int(e.Spec.Service.GetPort()))) + "/" + volume
}

// owner makes the export the controlling owner of an object. It doesn't block
// the deletion of the owner: the finalizer on the export does that, and so the
// operator needs no right to write the export's finalizers subresource.
func owner(e *v1alpha1.NBDExport) *metav1ac.OwnerReferenceApplyConfiguration {
	return metav1ac.OwnerReference().
		WithAPIVersion(v1alpha1.GroupVersion.String()).
		WithKind("NBDExport").
		WithName(e.Name).
		WithUID(e.UID).
		WithController(true)
}
