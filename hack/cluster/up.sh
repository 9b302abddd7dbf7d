#!/bin/bash
# Starts a cluster of NBDEXPORT_NODES nodes and prints the path of its
# kubeconfig, and nothing else, on stdout. Is it up already, only that.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
need_root
lock
if alive kube-apiserver && [ -f "$RUN/up" ]; then
  [ "$(wc -w <"$RUN/nodes")" = "$NBDEXPORT_NODES" ] ||
    say "is up with $(wc -w <"$RUN/nodes") node(s), not NBDEXPORT_NODES=$NBDEXPORT_NODES: for that, run hack/cluster/down.sh first"
  echo "$RUN/admin.kubeconfig"
  exit 0
fi

for b in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl pki provisioner; do
  [ -x "$BIN/$b" ] || die "$BIN/$b is missing: run hack/cluster/build.sh"
done
for i in pause coredns; do
  [ -f "$IMAGES/$i.tar" ] || die "$IMAGES/$i.tar is missing: run hack/cluster/build.sh"
done
for b in containerd runc ip nft iptables conntrack losetup nsenter unshare pgrep flock; do
  command -v "$b" >/dev/null || die "$b is missing: run hack/deps.sh cluster"
done
[[ $NBDEXPORT_NODES =~ ^[1-9]$ ]] || die "NBDEXPORT_NODES=$NBDEXPORT_NODES: 1 to 9 nodes"

"$CLUSTER_DIR/down.sh" # what a failed start may have left
owner=$(cat "/sys/class/net/$BRIDGE/ifalias" 2>/dev/null) || owner=
[ ! -e "/sys/class/net/$BRIDGE" ] ||
  die "bridge $BRIDGE belongs to the cluster in ${owner:-an unknown folder}; stop that with NBDEXPORT_RUN=${owner:-...} hack/cluster/down.sh"
# A route of the machine to just these networks would be replaced, and lost.
for r in "$NET.0/24" "$SERVICES" $(seq -f "$PODS.%g.0/24" "$NBDEXPORT_NODES"); do
  taken=$(ip route show exact "$r")
  [ -z "$taken" ] || die "the cluster needs the network $r, and this machine has a route to it: $taken"
done
mkdir -p "$RUN/pids" "$RUN/log"
failed() { [ $? = 0 ] || say "did not come up. Logs are in $RUN/log; clean up with hack/cluster/down.sh"; }
trap failed EXIT

# The kubelet sets these, and they are the machine's: down.sh restores them.
for s in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  [ ! -f /proc/sys/$s ] || echo "$s $(cat /proc/sys/$s)"
done >"$RUN/sysctl.before"

if [ ! -e /proc/sys/net/bridge ]; then
  modprobe br_netfilter || die "the kernel has no br_netfilter: Services would not work"
  # It is for the nodes, which switch it on in their own network namespaces. The
  # machine's other bridges go on as before.
  for f in /proc/sys/net/bridge/bridge-nf-call-*; do echo 0 >"$f"; done
fi
# With an address of its own: else it has that of one of its ports, and changes it when
# a node goes, so that the others don't reach the machine for seconds.
ip link add "$BRIDGE" address 02:00:0a:c7:00:01 type bridge
ip link set "$BRIDGE" alias "$RUN"
ip addr add "$HOST_IP/24" dev "$BRIDGE"
ip link set "$BRIDGE" up

numbers=$(seq -s ' ' "$NBDEXPORT_NODES")
echo "$numbers" >"$RUN/nodes"
addresses=
for i in $numbers; do addresses+=${addresses:+,}n$i=$(node_ip "$i"); done
P=$RUN/pki
"$BIN/pki" -dir "$P" -server "$API" -nodes "$addresses" \
  -sans "$HOST_IP,127.0.0.1,$KUBERNETES_IP,localhost,kubernetes,kubernetes.default,kubernetes.default.svc,kubernetes.default.svc.cluster.local"
cp "$P/admin.kubeconfig" "$RUN/admin.kubeconfig"

# Without fsync: nobody needs this data after the machine's crash.
start etcd "$BIN/etcd" --data-dir "$RUN/etcd" --unsafe-no-fsync --log-level warn \
  --listen-client-urls http://127.0.0.1:12379 --advertise-client-urls http://127.0.0.1:12379 \
  --listen-peer-urls http://127.0.0.1:12380 --initial-advertise-peer-urls http://127.0.0.1:12380 \
  --initial-cluster default=http://127.0.0.1:12380
"$CLUSTER_DIR/apiserver.sh" start
step "API server"

# NBDEXPORT_KCM_ARGS: e.g. --node-monitor-grace-period=20s to lose nodes faster.
# shellcheck disable=SC2086 # arguments, to be split
start kube-controller-manager "$BIN/kube-controller-manager" --kubeconfig="$P/controller-manager.kubeconfig" \
  --leader-elect=false --bind-address=127.0.0.1 --use-service-account-credentials=true \
  --root-ca-file="$P/ca.crt" --service-account-private-key-file="$P/sa.key" \
  --cluster-signing-cert-file="$P/ca.crt" --cluster-signing-key-file="$P/ca.key" \
  --requestheader-client-ca-file="$P/front-proxy-ca.crt" ${NBDEXPORT_KCM_ARGS:-}
start kube-scheduler "$BIN/kube-scheduler" --kubeconfig="$P/scheduler.kubeconfig" --leader-elect=false --bind-address=127.0.0.1

jobs=()
for i in $numbers; do
  "$CLUSTER_DIR/node-up.sh" "$i" &
  jobs+=($!)
done
for j in "${jobs[@]}"; do wait "$j" || die "a node did not start; see above"; done
# The machine's way to Services: node 1's kube-proxy translates.
ip route replace "$SERVICES" via "$(node_ip 1)"

sed "s/@DNS_IP@/$DNS_IP/" "$CLUSTER_DIR/coredns.yaml" | kc apply -f - >/dev/null
kc apply -f "$CLUSTER_DIR/storageclass.yaml" >/dev/null
start provisioner "$BIN/provisioner" -kubeconfig "$RUN/admin.kubeconfig" -run "$RUN"
kc wait --for=condition=Ready nodes --all --timeout=300s >/dev/null
step "nodes ready"
kc -n kube-system rollout status deploy/coredns --timeout=300s >/dev/null
touch "$RUN/up"
step "up with $NBDEXPORT_NODES node(s); images: $(cd "$IMAGES" && echo *.tar)"
echo "$RUN/admin.kubeconfig"
