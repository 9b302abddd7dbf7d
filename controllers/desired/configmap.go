package desired

import (
	corev1 "k8s.io/api/core/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// configKey is the key in the ConfigMap, and the name of the file in the pod.
const configKey = "limits.yaml"

// ConfigMap is the server's configuration file, with the limits of an export. It is
// there without any limits too: the pod has to have it mounted when one is set.
func ConfigMap(e *v1alpha1.NBDExport) *corev1ac.ConfigMapApplyConfiguration {
	return corev1ac.ConfigMap(ChildName(e.Name), e.Namespace).
		WithLabels(Labels(e.Name)).
		WithOwnerReferences(owner(e)).
		WithData(map[string]string{configKey: limits(e.Spec.Limits)})
}

// ConfigMapMatches tells whether a ConfigMap is as ConfigMap would make it, so
// that nothing has to be applied.
func ConfigMapMatches(e *v1alpha1.NBDExport, c *corev1.ConfigMap) bool {
	for k, v := range Labels(e.Name) {
		if c.Labels[k] != v {
			return false
		}
	}
	return c.Data[configKey] == limits(e.Spec.Limits)
}

// limits writes limits as the server reads them: see "Limits" in
// docs/nbdserver.md. What isn't said is left to the server's defaults.
func limits(l *v1alpha1.Limits) string {
	if l == nil {
		l = &v1alpha1.Limits{}
	}
	type rate struct {
		BytesPerSecond int64 `json:"bytesPerSecond"`
	}
	file := struct {
		MaxConnections          *int32          `json:"maxConnections,omitempty"`
		MaxConnectionsPerClient *int32          `json:"maxConnectionsPerClient,omitempty"`
		Rate                    *rate           `json:"rate,omitempty"`
		Allow                   []v1alpha1.CIDR `json:"allow,omitempty"`
		Deny                    []string        `json:"deny,omitempty"`
	}{
		MaxConnections:          l.Connections,
		MaxConnectionsPerClient: l.ConnectionsPerClient,
		Allow:                   l.AllowedClientCIDRs,
	}
	if l.BytesPerSecond != nil {
		file.Rate = &rate{l.BytesPerSecond.Value()}
	}
	if len(file.Allow) > 0 {
		file.Deny = []string{"all"}
	}
	b, _ := yaml.Marshal(file) // numbers and strings can't fail
	return string(b)
}
