#!/bin/bash
# Writes bin/install, a kustomization of config/default with IMAGE for the manager
# and the servers. hack/deploy.sh applies it, hack/installer.sh makes one file of it.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${IMAGE:=localhost/nbdexport:dev}"
# An overlay has to lie in this tree; bin/ isn't committed.
mkdir -p bin/install
cat >bin/install/kustomization.yaml <<Y
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../config/default]
patches:
- target: {kind: Deployment, name: nbdexport-manager}
  patch: |
    - {op: replace, path: /spec/template/spec/containers/0/image, value: "$IMAGE"}
    - {op: replace, path: /spec/template/spec/containers/0/env/0/value, value: "$IMAGE"}
Y
