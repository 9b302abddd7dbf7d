#!/bin/bash
# Runs golangci-lint with the plugin kube-api-linter in it, built from its Go module as
# pinned in hack/lint/go.mod.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${NBDEXPORT_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/nbdexport}"
mkdir -p "$NBDEXPORT_CACHE/bin"
lint=$NBDEXPORT_CACHE/bin/golangci-lint-kube-api-linter
(cd hack/lint && CGO_ENABLED=0 go build -o "$lint" sigs.k8s.io/kube-api-linter/cmd/golangci-lint-kube-api-linter)
"$lint" run "$@" ./...
if command -v shellcheck >/dev/null; then shellcheck hack/*.sh hack/cluster/*.sh .ci/run; fi
