#!/bin/bash
# Stops the cluster and removes all of it but the logs. Safe at any time, also
# after a start that failed or when there is no cluster.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
need_root
lock
stop provisioner 1
for i in $(nodes); do "$CLUSTER_DIR/node-down.sh" "$i" purge; done
[ ! -d "$RUN/pki" ] || api_silent no
# No time to end by themselves: their state goes anyway.
for p in kube-scheduler kube-controller-manager kube-apiserver etcd; do stop "$p" 0; done

# The bridge takes its routes along. Another cluster's is left alone.
if [ "$(cat "/sys/class/net/$BRIDGE/ifalias" 2>/dev/null)" = "$RUN" ]; then
  ip link del "$BRIDGE"
fi
if [ -f "$RUN/sysctl.before" ]; then
  while read -r key value; do
    [ "$(cat "/proc/sys/$key")" = "$value" ] || echo "$value" >"/proc/sys/$key" || say "can't restore sysctl $key to $value"
  done <"$RUN/sysctl.before"
fi
[ -z "$(nodes)" ] || die "node(s) $(nodes | tr '\n' ' ')could not be removed, see above; run down.sh again"
was_up=
[ ! -d "$RUN/pki" ] || was_up=yes
rm -rf "$RUN"/{etcd,pki,pids,up,nodes,admin.kubeconfig,sysctl.before}
[ -z "$was_up" ] || step "down"
