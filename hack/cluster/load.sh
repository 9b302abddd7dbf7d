#!/bin/bash
# Puts images into every node; pods find them with imagePullPolicy IfNotPresent
# or Never.
#   load.sh IMAGE.tar...
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
need_root
[ $# -gt 0 ] || die "usage: load.sh IMAGE.tar..."
[ -f "$RUN/up" ] || die "there is no cluster: run hack/cluster/up.sh"
for t in "$@"; do
  [ -f "$t" ] || die "there is no file $t"
  for i in $(nodes); do load_image "$i" "$(realpath "$t")" || die "containerd on n$i does not take $t"; done
  step "loaded $(basename "$t")"
done
