#!/bin/bash
# Installs the CRD, the RBAC rules and the manager into the cluster of the
# current context, with IMAGE for the manager and the servers.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${IMAGE:=localhost/nbdexport:dev}"
# An overlay has to lie in this tree; bin/ isn't committed.
mkdir -p bin/deploy
cat >bin/deploy/kustomization.yaml <<Y
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../config/default]
patches:
- target: {kind: Deployment, name: nbdexport-manager}
  patch: |
    - {op: replace, path: /spec/template/spec/containers/0/image, value: "$IMAGE"}
    - {op: replace, path: /spec/template/spec/containers/0/env/0/value, value: "$IMAGE"}
Y
# Client-side apply, as the README has it: the CRD must stay small enough.
kubectl apply -k bin/deploy
# A rebuilt image has the same name.
kubectl -n nbdexport-system rollout restart deployment/nbdexport-manager >/dev/null
kubectl -n nbdexport-system rollout status deployment/nbdexport-manager --timeout=120s
