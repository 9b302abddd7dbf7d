#!/bin/bash
# Runs golangci-lint, built from its Go module as pinned in hack/lint/go.mod.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${NBDEXPORT_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/nbdexport}"
mkdir -p "$NBDEXPORT_CACHE/bin"
(cd hack/lint && CGO_ENABLED=0 go build -o "$NBDEXPORT_CACHE/bin/golangci-lint" github.com/golangci/golangci-lint/v2/cmd/golangci-lint)
"$NBDEXPORT_CACHE/bin/golangci-lint" run "$@" ./...
if command -v shellcheck >/dev/null; then shellcheck hack/*.sh hack/cluster/*.sh .ci/run; fi
