#!/usr/bin/env bash
# Writes what is generated from the Go code: deep copies, the CRD, the manager's role,
# the chart's copies of these two, the reference of the API.
# With a directory as argument it writes there instead of into the tree, in the same layout.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-.}
mkdir -p "$out/api/v1alpha1" "$out/config/crd" "$out/config/rbac" "$out/docs" "$out/charts/nbdexport/files"

go tool -modfile=hack/tools/go.mod controller-gen \
    object:headerFile=/dev/null paths=./api/... output:object:dir="$out/api/v1alpha1"
go tool -modfile=hack/tools/go.mod controller-gen \
    crd paths=./api/... output:crd:dir="$out/config/crd"
go tool -modfile=hack/tools/go.mod controller-gen \
    rbac:roleName=nbdexport-manager paths=./controllers/... output:rbac:dir="$out/config/rbac"
go run ./hack/crd "$out/config/crd/nbdexport.io_nbdexports.yaml"
go tool -modfile=hack/tools/go.mod crd-ref-docs \
    --source-path=./api/v1alpha1 --config=hack/api-docs.yaml --renderer=markdown --output-path="$out/docs/api.md" --log-level=ERROR
cp "$out/config/crd/nbdexport.io_nbdexports.yaml" "$out/charts/nbdexport/files/crd.yaml"
cp "$out/config/rbac/role.yaml" "$out/charts/nbdexport/files/role.yaml"
