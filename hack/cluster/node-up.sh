#!/bin/bash
# Starts a node, or brings back one that node-down.sh took away.
#   node-up.sh NUMBER
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
need_root
lock
i=${1:?usage: node-up.sh NUMBER} name=n$1 dir=$RUN/n$1 P=$RUN/pki
[ -f "$P/kubelet-$name.kubeconfig" ] || die "the cluster has no node $name: NBDEXPORT_NODES at up.sh says how many there are"
! alive "init-$name" || die "node $name is up"
ip=$(node_ip "$i")
mkdir -p "$dir"/{kubelet,containerd,cni,cni-config,pods-log,etc}
mkdir -p /var/lib/{kubelet,containerd,cni} /etc/cni/net.d # to be mounted upon
rm -f "$dir/init-ready"

# In version 2 of cgroups a child has the controllers that its parent hands on.
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
  echo "+cpu +cpuset +memory +pids" >/sys/fs/cgroup/cgroup.subtree_control ||
    die "can't hand on the cgroup controllers of /sys/fs/cgroup: run on the machine itself, not in a container"
fi
# A root cgroup of its own. In cpuset of version 1 a new group may use nothing,
# not even when its parent may.
node_cgroups "$i" | while read -r d; do
  mkdir -p "$d"
  for f in cpuset.cpus cpuset.mems; do
    if [ -f "$d/$f" ] && [ -z "$(cat "$d/$f")" ] && [ -s "${d%/*}/$f" ]; then cat "${d%/*}/$f" >"$d/$f"; fi
  done
  # All pods of a node together have the share of one process of the machine
  # otherwise, and stand still when that is busy.
  [ ! -f "$d/cpu.shares" ] || echo $((1024 * 8)) >"$d/cpu.shares"
  [ ! -f "$d/cpu.weight" ] || echo 800 >"$d/cpu.weight"
done

# What start records is unshare; its child is the node's first process.
start "node-$name" unshare --mount --uts --net --ipc --pid --fork --kill-child --mount-proc --propagation private \
  "$CLUSTER_DIR/node-init.sh" "$name" "$dir"
wait_for 120 "namespaces for $name (see $RUN/log/node-$name.log)" test -f "$dir/init-ready"
record "init-$name" "$(pgrep -P "$(pid_of "node-$name")" | head -1)"
init=$(pid_of "init-$name")
start_in_node() {
  local process=$1
  shift
  start "$process-$name" nsenter -t "$init" -m -u -n -i -p -- "$@"
}

# One leg on the bridge, and routes to the pods of the other nodes. The only
# way out is to this machine: "unreachable" makes all else fail at once.
ip link add "nbde-$name" type veth peer name eth0 netns "$init"
ip link set "nbde-$name" master "$BRIDGE" up
in_node "$i" ip addr add "$ip/24" dev eth0
in_node "$i" ip link set eth0 up
in_node "$i" ip route add "$SERVICES" via "$HOST_IP"
in_node "$i" ip route add unreachable default metric 1000
for j in $(<"$RUN/nodes"); do
  [ "$j" = "$i" ] || in_node "$i" ip route add "$PODS.$j.0/24" via "$(node_ip "$j")"
done
in_node "$i" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables'
ip route replace "$PODS.$i.0/24" via "$ip"

device_ownership=true
[[ " $NBDEXPORT_ROOT_DEVICES " != *" $i "* ]] || device_ownership=false
# config TEMPLATE FILE: fill in a file of node/.
config() {
  sed -e "s|@NODE@|$name|g; s|@CGROUP@|/nbde-$name|g; s|@PKI@|$P|g; s|@DIR@|$dir|g" \
    -e "s|@DNS_IP@|$DNS_IP|g; s|@PODS@|$PODS|g; s|@NODE_PODS@|$PODS.$i.0/24|g" \
    -e "s|@DEVICE_OWNERSHIP@|$device_ownership|g" "$CLUSTER_DIR/node/$1" >"$2"
}
config cni.conflist "$dir/cni-config/10-nbde.conflist"
config containerd.toml "$dir/etc/containerd.toml"
config kubelet.yaml "$dir/etc/kubelet.yaml"
config kube-proxy.yaml "$dir/etc/kube-proxy.yaml"
: >"$dir/etc/resolv.conf"

start_in_node containerd containerd -c "$dir/etc/containerd.toml" -l warn
wait_for 120 "containerd on $name (see $RUN/log/containerd-$name.log)" in_node "$i" ctr version
for t in "$IMAGES"/*.tar; do
  load_image "$i" "$t" || die "containerd does not take $t: build it again"
done

start_kubelet() {
  start_in_node kubelet "$BIN/kubelet" --config "$dir/etc/kubelet.yaml" \
    --kubeconfig "$P/kubelet-$name.kubeconfig" --hostname-override "$name" --node-ip "$ip" -v=1
}
start_proxy() {
  start_in_node kube-proxy "$BIN/kube-proxy" --config "$dir/etc/kube-proxy.yaml"
  wait_for 300 "Services on $name (see $RUN/log/kube-proxy-$name.log)" in_node "$i" timeout 1 bash -c "</dev/tcp/$KUBERNETES_IP/443"
}
# A SYN that reaches a ClusterIP before kube-proxy's rules hangs its connection
# for 30 s, so rules come before pods. But kube-proxy wants to see its Node,
# which the kubelet makes at its first start.
if kc get node "$name" >/dev/null 2>&1; then
  start_proxy
  start_kubelet
else
  start_kubelet
  start_proxy
fi
step "node $name"
