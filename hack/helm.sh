#!/bin/bash
# Runs helm, built from its Go module as pinned in hack/helm/go.mod. It is built
# once, into the cache: minutes the first time, nothing from then on.
#   helm.sh ARGUMENTS...
#   helm.sh              builds it if it isn't there, and prints where it is
set -euo pipefail
module=$(cd "$(dirname "${BASH_SOURCE[0]}")/helm" && pwd)
: "${NBDEXPORT_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/nbdexport}"
bin=$NBDEXPORT_CACHE/bin
mkdir -p "$bin/.stamps"
want=$(cat "$module/go.mod" "$module/go.sum" | sha256sum)
if [ ! -x "$bin/helm" ] || [ "$(cat "$bin/.stamps/helm" 2>/dev/null)" != "$want" ]; then
  # Under a name of its own first: several tests may come here at a time.
  new=$(mktemp "$bin/helm.XXXXXX")
  trap 'rm -f "$new"' EXIT
  (cd "$module" && CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off go build -trimpath -ldflags '-s -w' -o "$new" helm.sh/helm/v4/cmd/helm) ||
    { echo "helm: it does not build; see above. Without network, is GOPROXY reachable?" >&2; exit 1; }
  chmod 755 "$new"
  mv "$new" "$bin/helm"
  echo "$want" >"$bin/.stamps/helm"
  echo "helm: built in $SECONDS s" >&2
fi
if [ $# = 0 ]; then
  echo "$bin/helm"
else
  exec "$bin/helm" "$@"
fi
