#!/bin/bash
# Runs the tests.
#   test.sh unit   what needs nothing but Go
#   test.sh all    everything, on a machine that this script may change: it
#                  installs Debian packages, builds Kubernetes from Go modules
#                  (kept in the cache) and starts a one-machine cluster of it
set -euo pipefail
cd "$(dirname "$0")/.."
: "${NBDEXPORT_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/nbdexport}"
export KUBEBUILDER_ASSETS=${KUBEBUILDER_ASSETS:-$NBDEXPORT_CACHE/bin}

say() { echo "test: $(printf '%4d s  ' "$SECONDS")$*" >&2; }
die() {
  echo "test: $*" >&2
  exit 1
}
command -v go >/dev/null || die "go is not in PATH: install the Go version that go.mod names"

unit() {
  local unformatted race=-race
  # The race detector needs a C compiler; without one the tests still run.
  command -v gcc >/dev/null || race=
  [ -n "$race" ] || say "no gcc: running without the race detector"
  unformatted=$(gofmt -l .)
  [ -z "$unformatted" ] || die "not formatted, run gofmt -w on: $unformatted"
  go vet ./...
  # For the chart's tests; not in their time.
  hack/helm.sh >/dev/null
  # test/ needs real peers: an API server, NBD clients, a cluster.
  mapfile -t packages < <(go list ./... | grep -v /test/)
  go test ${race:+$race} "$@" -timeout 10m "${packages[@]}"
}

case ${1:-} in
unit) unit ;;
all)
  [ "$(id -u)" = 0 ] || die "needs root: it installs packages, makes loop devices and starts a cluster. Run it as root, or only the quick part with 'make test-unit'"
  say "Debian packages"
  hack/deps.sh cluster interop vm
  say "Kubernetes from Go modules"
  hack/cluster/build.sh
  say "lint"
  hack/lint.sh
  say "unit tests"
  unit -tags root
  say "virtual machines to boot"
  hack/vm.sh
  say "NBD clients; controllers, cost of exports and installations on real API servers"
  # At the same time, whatever the number of CPUs: each of them waits more than it works.
  # Of those that fail, go test shows the output one after the other.
  go test -race -p 4 -timeout 20m -count=1 ./test/interop ./test/controller ./test/packaging ./test/scale ||
    die "failed; see FAIL above"
  say "end to end on a cluster"
  hack/image.sh
  trap hack/cluster/down.sh EXIT
  # The second and the third node are there to be drained and lost, and have what
  # faults need. One that is up already may have other images.
  export NBDEXPORT_NODES=3 NBDEXPORT_ROOT_DEVICES=3 NBDEXPORT_KCM_ARGS=--node-monitor-grace-period=20s
  hack/cluster/down.sh
  KUBECONFIG=$(hack/cluster/up.sh)
  export KUBECONFIG PATH=$NBDEXPORT_CACHE/bin:$PATH # which has kubectl
  go test -tags e2e -timeout 30m -count=1 -v ./test/e2e/...
  say "all passed"
  ;;
*) die "usage: test.sh unit|all" ;;
esac
