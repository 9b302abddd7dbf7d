#!/bin/bash
# Checks in a running cluster what the project relies on. Leaves nothing behind.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
[ -f "$RUN/up" ] || die "there is no cluster: run hack/cluster/up.sh"
NS=nbde-smoke
k() { kc -n $NS "$@"; }
checks=0
# check WHAT COMMAND...: one line per check; the first that fails ends it.
check() {
  local what=$1 out
  shift
  if ! out=$("$@" 2>&1); then
    echo "not ok - $what"
    echo "$out"
    k get pods,pvc,events 2>&1 || true
    exit 1
  fi
  checks=$((checks + 1))
  echo "ok $checks - $what"
}
cleanup() { kc delete namespace $NS --ignore-not-found --timeout=60s >/dev/null; }
trap cleanup EXIT

# retry SECONDS COMMAND...: rules of a new Service take a moment.
retry() {
  local i seconds=$1
  shift
  for ((i = 0; i < seconds * 2; i++)); do
    "$@" && return 0
    sleep 0.5
  done
  return 1
}
# timeout, for the -T of this wget crashes.
from_pod() { k exec client -- timeout 3 wget -qO- "$1" | grep "hello from web"; }
from_machine() {
  exec 3<>"/dev/tcp/$1/$2" || return 1
  printf 'GET / HTTP/1.0\r\n\r\n' >&3
  timeout 5 grep "hello from web" <&3
}
# The machine's resolver is left alone; this asks the cluster's.
dns_from_machine() { /bin/busybox nslookup "web.$NS.svc.cluster.local" "$DNS_IP" | grep "$1"; }
confined() {
  [ "$(k exec web -- id -u)" = 65532 ] || return 1
  k exec web -- grep -E '^(Seccomp|CapEff):' /proc/self/status | tr -s '\t\n' '  ' | grep 'CapEff: 0000000000000000 Seccomp: 2'
}
device() {
  # shellcheck disable=SC2016 # for the shell in the pod
  k exec web -- sh -c 'echo written as $(id -u) | dd of=/dev/xvda bs=512 conv=sync,fsync 2>/dev/null && blockdev --getsize64 /dev/xvda' | grep -x 16777216
  local disk
  disk=$(kc get pv "$(k get pvc disk -o jsonpath='{.spec.volumeName}')" -o jsonpath='{.spec.local.path}')
  head -c 16 "$disk" | grep "written as 65532"
}
drains() {
  local t0 log
  t0=$(date +%s%N)
  log=$RUN/log/smoke-web.log
  k logs -f web >"$log" &
  k delete pod web --wait >/dev/null
  wait $!
  grep "got SIGTERM" "$log" && grep "left by itself" "$log" && [ $((($(date +%s%N) - t0) / 1000000)) -ge 3000 ]
}
killed() { timeout 20 "$BIN/kubectl" --kubeconfig "$RUN/admin.kubeconfig" -n $NS delete pod client --wait; }
no_volumes() { [ -z "$(kc get pv -o jsonpath="{.items[?(@.spec.claimRef.namespace=='$NS')].metadata.name}")" ]; }
no_files() { [ -z "$(find "$RUN"/n*/kubelet/nbde-volumes -mindepth 1 -newer "$stamp" 2>/dev/null)" ]; }

stamp=$(mktemp)
trap 'cleanup; rm -f "$stamp"' EXIT
kc create namespace $NS >/dev/null
kc label namespace $NS pod-security.kubernetes.io/enforce=restricted >/dev/null
k apply -f "$CLUSTER_DIR/smoke.yaml" >/dev/null
check "pods run, restricted, with a Filesystem and a Block volume" k wait --for=condition=Ready pod/web pod/client --timeout=60s
check "user 65532, no capabilities, seccomp" confined
check "logs" sh -c "'$BIN/kubectl' --kubeconfig '$RUN/admin.kubeconfig' -n $NS logs web | grep started"
check "the Block volume is writable by that user, and has its size" device
service=$(k get service web -o jsonpath='{.spec.clusterIP}')
pod=$(k get pod web -o jsonpath='{.status.podIP}')
check "pod to ClusterIP" retry 10 from_pod "http://$service"
check "pod to a Service's name" retry 10 from_pod "http://web.$NS.svc.cluster.local"
check "machine to pod" retry 10 from_machine "$pod" 8080
check "machine to ClusterIP" retry 10 from_machine "$service" 80
check "machine to the cluster's DNS" retry 10 dns_from_machine "$service"
check "SIGTERM, and time to end" drains
check "SIGKILL when the grace period is over" killed
k delete pvc --all --wait >/dev/null
check "volumes are deleted" retry 30 no_volumes
check "and so are their files and devices" retry 5 no_files
echo "all $checks ok in $SECONDS s"
