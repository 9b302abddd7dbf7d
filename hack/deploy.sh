#!/bin/bash
# Installs the CRD, the RBAC rules and the manager into the cluster of the
# current context, with IMAGE for the manager and the servers.
set -euo pipefail
cd "$(dirname "$0")/.."
hack/overlay.sh
# Client-side apply, as the README has it: the CRD must stay small enough.
kubectl apply -k bin/install
# A rebuilt image has the same name.
kubectl -n nbdexport-system rollout restart deployment/nbdexport-manager >/dev/null
kubectl -n nbdexport-system rollout status deployment/nbdexport-manager --timeout=120s
