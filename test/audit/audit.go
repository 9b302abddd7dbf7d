// Package audit has an API server of the tests write down what a user asks it for.
package audit

import (
	"os"
	"path/filepath"

	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// Operator is who the operator is to the API server.
const Operator = "system:serviceaccount:nbdexport-system:nbdexport-manager"

// Log configures an API server that isn't started yet. It writes a line of JSON for
// each request of Operator, once that is answered, into the file that is returned, which
// lies in dir. A request whose line can't be written fails.
func Log(env *envtest.Environment, dir string) (file string, err error) {
	policy := filepath.Join(dir, "policy.yaml")
	text := `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, users: ["` + Operator + `"]}
- {level: None}
`
	file = filepath.Join(dir, "audit.log")
	env.ControlPlane.GetAPIServer().Configure().
		Append("audit-policy-file", policy).
		Append("audit-log-path", file).
		Append("audit-log-mode", "blocking-strict")
	return file, os.WriteFile(policy, []byte(text), 0o600)
}
