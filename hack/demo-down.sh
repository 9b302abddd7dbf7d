#!/bin/bash
# Takes away what hack/demo.sh made: its cluster, or with CLUSTER=current its
# namespace and the operator that it installed (unless INSTALL=no).
set -euo pipefail
cd "$(dirname "$0")/.."
case ${CLUSTER:-own} in
own) hack/cluster/down.sh ;;
current)
  kubectl delete namespace -l nbdexport.io/demo=yes --timeout=300s
  if [ "${INSTALL:-yes}" = yes ]; then
    # With the CRD would go all exports, and nobody would be left to drain them.
    left=$(kubectl get nbdexports -A -o name)
    if [ -n "$left" ]; then
      echo "demo: there are still NBDExports; the operator stays. Delete them first: kubectl get nbdexports -A" >&2
      exit 1
    fi
    kubectl delete -k config/default --ignore-not-found
  fi
  ;;
*)
  echo "demo: CLUSTER is own or current, not '$CLUSTER'" >&2
  exit 1
  ;;
esac
