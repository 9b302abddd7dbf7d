#!/bin/bash
# Installs the CRD, the RBAC rules and the manager into the cluster of the
# current context, with IMAGE for the manager and the servers.
set -euo pipefail
cd "$(dirname "$0")/.."
hack/overlay.sh
manager=deployment/nbdexport-manager
was_there=$(kubectl -n nbdexport-system get --ignore-not-found "$manager" -o name)
# Client-side apply, as the README has it: the CRD must stay small enough.
kubectl apply -k bin/install
# A rebuilt image has the same name.
[ -z "$was_there" ] || kubectl -n nbdexport-system rollout restart "$manager" >/dev/null
kubectl -n nbdexport-system rollout status "$manager" --timeout=300s
