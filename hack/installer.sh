#!/bin/bash
# Writes the whole installation as one file, dist/install.yaml or the one named,
# with IMAGE for the manager and the servers.
#   installer.sh [FILE]
set -euo pipefail
out=$(realpath -m "${1:-$(dirname "$0")/../dist/install.yaml}")
cd "$(dirname "$0")/.."
mkdir -p "$(dirname "$out")"
hack/overlay.sh
go tool -modfile=hack/tools/go.mod kustomize build bin/install >"$out"
echo "$out" >&2
