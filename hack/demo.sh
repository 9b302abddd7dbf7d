#!/bin/bash
# The main job, shown step by step: a VM's disk is exported, streamed, and the
# export ends by itself, gracefully, when the VM's pod goes away. Every step is
# checked; the first that doesn't hold ends the script with exit code 1.
#
# Without more, it starts a real Kubernetes of one machine (see hack/cluster) and
# leaves it running; "make demo-down" stops it. With CLUSTER=current it uses the
# current context of kubectl: give it IMAGE and CLIENT_IMAGE (hack/image.sh says
# what is in them) in a registry that the cluster reaches. INSTALL=no leaves the
# operator that is installed there as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${NBDEXPORT_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/nbdexport}"
: "${CLUSTER:=own}"
: "${INSTALL:=yes}"
: "${DISK_MIB:=64}"
namespace=nbdexport-demo

step() { printf '\n== %s\n' "$*"; }
# show prints a command as the reader would type it.
show() {
  local a line='$'
  for a; do
    case $a in *[\ \?\{]*) a="'$a'" ;; esac
    line+=" $a"
  done
  echo "$line"
}
run() {
  show "$@"
  "$@"
}
die() {
  printf '\ndemo: %s\n' "$*" >&2
  exit 1
}
k() { kubectl -n $namespace "$@"; }
kr() { run kubectl -n $namespace "$@"; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

case $CLUSTER in
own)
  [ "$(id -u)" = 0 ] || die "needs root to start a cluster; with CLUSTER=current it uses the one that you have"
  step "A real Kubernetes on this machine"
  hack/deps.sh cluster interop
  hack/cluster/build.sh
  hack/image.sh
  KUBECONFIG=$(hack/cluster/up.sh)
  export KUBECONFIG PATH=$NBDEXPORT_CACHE/bin:$PATH
  hack/cluster/load.sh "$NBDEXPORT_CACHE"/images/{nbdexport,nbd-client}.tar
  IMAGE=localhost/nbdexport:dev
  CLIENT_IMAGE=localhost/nbd-client:dev
  ;;
current)
  command -v kubectl >/dev/null || die "kubectl is not in PATH"
  kubectl version >/dev/null || die "the current context of kubectl reaches no cluster"
  step "The cluster of the current context, $(kubectl config current-context)"
  [ -n "${CLIENT_IMAGE:-}" ] || die "CLIENT_IMAGE is not set: an image with nbdcopy and nbdinfo that the cluster can pull; hack/image.sh makes one"
  if [ "$INSTALL" = yes ]; then
    [ -n "${IMAGE:-}" ] || die "IMAGE is not set: the image of nbdexport that the cluster can pull; make docker-build or make image makes one"
    ! kubectl get namespace nbdexport-system >/dev/null 2>&1 ||
      die "there is an operator in nbdexport-system already: INSTALL=no uses it as it is"
  fi
  ;;
*) die "CLUSTER is own or current, not '$CLUSTER'" ;;
esac
run kubectl get nodes

if [ "$INSTALL" = yes ]; then
  step "Install the CRD, the RBAC rules and the manager"
  IMAGE=$IMAGE hack/deploy.sh | sed 's/^/  /'
fi

step "A VM: its disk is a raw image on a PersistentVolumeClaim, a pod stands for the VM"
# Of an earlier run; a namespace of this name that isn't ours stays.
kubectl delete namespace -l nbdexport.io/demo=yes --timeout=300s >/dev/null
! kubectl get namespace $namespace >/dev/null 2>&1 || die "there is a namespace $namespace that is not of this demo: rename or remove it"
kubectl apply -f hack/demo/namespace.yaml | sed 's/^/  /'
# Without it, pods are refused.
k wait --for=create serviceaccount/default --timeout=300s >/dev/null
sed "s|@CLIENT_IMAGE@|$CLIENT_IMAGE|" hack/demo/vm.yaml | kubectl apply -f - | sed 's/^/  /'
kr wait --for=condition=Ready pod/vm --timeout=300s
mkdir "$work/files"
echo "hello from the disk of a VM" >"$work/files/hello.txt"
head -c $((DISK_MIB / 4))M /dev/urandom >"$work/files/random.bin"
truncate -s "${DISK_MIB}M" "$work/disk.img"
/sbin/mkfs.ext4 -q -d "$work/files" "$work/disk.img"
k exec -i vm -- sh -c 'cat >/disk/disk.img && sync' <"$work/disk.img"
sum=$(sha256sum <"$work/disk.img" | cut -d' ' -f1)
printf 'disk.img: %s MiB, ext4 with hello.txt and random.bin\nsha256    %s\n' "$DISK_MIB" "$sum"

step "Export it until the VM's pod is deleted, or somebody creates a file"
run cat hack/demo/export.yaml
kr apply -f hack/demo/export.yaml
kr wait --for=condition=Ready nbdexport/vm-disk --timeout=300s
kr get nbdexport

step "A client: a pod that mounts the Secret with the client's certificate"
get=(get nbdexport vm-disk -o jsonpath='{.status.uri} {.status.clientSecretName}{"\n"}')
kr "${get[@]}"
read -r uri secret < <(k "${get[@]}")
run tail -n 5 hack/demo/client.yaml
sed "s|@CLIENT_IMAGE@|$CLIENT_IMAGE|; s|@CLIENT_SECRET@|$secret|" hack/demo/client.yaml | kubectl apply -f - | sed 's/^/  /'
kr wait --for=condition=Ready pod/client --timeout=300s
uri+="?tls-certificates=/tls"
# Ready says that the server is; a node learns of a Service a moment later.
for ((i = 0; i < 300; i++)); do
  ! k exec client -- nbdinfo --size "$uri" >/dev/null 2>&1 || break
  sleep 0.2
done
kr exec client -- nbdinfo --no-content "$uri"

step "Stream the disk with nbdcopy"
copy="nbdcopy \"$uri\" - | sha256sum"
show kubectl -n $namespace exec client -- sh -c "$copy"
got=$(k exec client -- sh -c "$copy" | cut -d' ' -f1)
echo "sha256    $got"
[ "$got" = "$sum" ] || die "the copy differs from the disk"

step "A second copy is halfway through; the VM's pod is deleted"
# It stops there until the file go-on is created.
k exec client -- sh -c "nbdcopy '$uri' - |
  { dd bs=1M count=$((DISK_MIB / 2)) iflag=fullblock 2>/dev/null; touch /tmp/halfway; until [ -e /tmp/go-on ]; do sleep 0.1; done; cat; } |
  sha256sum" >"$work/second.sum" &
second=$!
for ((i = 0; ; i++)); do
  ! k exec client -- test -e /tmp/halfway 2>/dev/null || break
  [ $i -lt 300 ] || die "the second copy does not get halfway through"
  sleep 0.2
done
# The operator asks servers how many clients they have every ten seconds. Where it
# can't reach them the number stays empty.
k wait --for=jsonpath='{.status.connections}'=1 nbdexport/vm-disk --timeout=60s >/dev/null 2>&1 || true
kr get nbdexport
kr delete pod vm --wait=false
kr wait --for=condition=Ready=False nbdexport/vm-disk --timeout=300s
kr get nbdexport
echo "A newcomer is refused:"
if k exec client -- timeout 20 nbdinfo --size "$uri" 2>&1 | sed 's/^/  /'; then
  die "a newcomer was served during the drain"
fi
kill -0 $second 2>/dev/null || die "the second copy did not outlast the newcomer"
echo "... while the second copy goes on"
k exec client -- touch /tmp/go-on
wait $second || die "the second copy failed"
got=$(cut -d' ' -f1 <"$work/second.sum")
echo "sha256    $got"
[ "$got" = "$sum" ] || die "the second copy differs from the disk"

step "The export has ended"
kr wait --for=condition=Complete nbdexport/vm-disk --timeout=300s
kr get nbdexport -o wide
exit=$(k get nbdexport vm-disk -o jsonpath='{.status.exit.condition} {.status.exit.clean}')
[ "$exit" = "vm-gone true" ] || die "the exit is '$exit', not 'vm-gone true'"
echo
echo "The main job is done: exported, streamed twice over TLS with the same sha256, ended by"
echo "the condition vm-gone, cleanly."
echo
if [ "$CLUSTER" = own ]; then
  echo "The cluster is still up: export KUBECONFIG=$KUBECONFIG PATH=$NBDEXPORT_CACHE/bin:\$PATH"
  echo "\"make demo-down\" stops it."
else
  echo "\"CLUSTER=current make demo-down\" takes away what this made."
fi
