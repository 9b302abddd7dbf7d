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
: "${DISK_MIB:=256}"
namespace=nbdexport-demo

step() { printf '\n== %s\n' "$*"; }
run() {
  printf '$ %s\n' "$*"
  "$@"
}
die() {
  printf '\ndemo: %s\n' "$*" >&2
  exit 1
}
k() { kubectl -n $namespace "$@"; }
# run, with the command as the reader would type it.
kr() {
  printf '$ kubectl -n %s %s\n' $namespace "$*"
  k "$@"
}

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
kubectl delete namespace -l nbdexport.io/demo=yes --timeout=120s >/dev/null
! kubectl get namespace $namespace >/dev/null 2>&1 || die "there is a namespace $namespace that is not of this demo: rename or remove it"
sed "s|@CLIENT_IMAGE@|$CLIENT_IMAGE|" hack/demo/vm.yaml | kubectl apply -f - | sed 's/^/  /'
kr wait --for=condition=Ready pod/vm pod/client --timeout=120s
mkdir "$work/files"
echo "hello from the disk of a VM" >"$work/files/hello.txt"
head -c 64M /dev/urandom >"$work/files/random.bin"
truncate -s "${DISK_MIB}M" "$work/disk.img"
/sbin/mkfs.ext4 -q -d "$work/files" "$work/disk.img"
k exec -i vm -- sh -c 'cat >/disk/disk.img && sync' <"$work/disk.img"
sum=$(sha256sum <"$work/disk.img" | cut -d' ' -f1)
printf 'disk.img: %s MiB, ext4 with hello.txt and random.bin\nsha256    %s\n' "$DISK_MIB" "$sum"

step "Export it until the VM's pod is deleted, or somebody creates a file"
run cat hack/demo/export.yaml
kr apply -f hack/demo/export.yaml
kr wait --for=condition=Ready nbdexport/vm-disk --timeout=120s
uri=$(k get nbdexport vm-disk -o jsonpath='{.status.uri}')
kr get nbdexport
echo "URI: $uri"

step "Stream the disk with nbdcopy, in a client pod"
# Ready says that the server is; a node learns of a Service a moment later.
for ((i = 0; i < 50; i++)); do
  ! k exec client -- nbdinfo --size "$uri" >/dev/null 2>&1 || break
  sleep 0.2
done
got=$(k exec client -- sh -c "nbdcopy '$uri' - | sha256sum" | cut -d' ' -f1)
echo "sha256    $got"
[ "$got" = "$sum" ] || die "the copy differs from the disk"
kr exec client -- nbdinfo --no-content "$uri"

step "A second, slow copy is under way; the VM's pod is deleted"
# It reads 4 MiB at a time, with a pause behind each.
k exec client -- sh -c "nbdcopy '$uri' - |
  { i=0; while [ \$i -lt $((DISK_MIB / 4)) ]; do dd bs=4M count=1 iflag=fullblock 2>/dev/null; i=\$((i + 1)); echo \$i >/tmp/progress; sleep 0.2; done; } |
  sha256sum" >"$work/slow.sum" &
slow=$!
for ((i = 0; ; i++)); do
  [ "$(k exec client -- sh -c 'cat /tmp/progress 2>/dev/null || echo 0')" -lt 3 ] || break
  [ $i -lt 100 ] || die "the slow copy does not begin"
  sleep 0.2
done
kr delete pod vm --wait=false
kr wait --for=condition=Ready=False nbdexport/vm-disk --timeout=30s
kr get nbdexport
kill -0 $slow 2>/dev/null || die "the slow copy was over before the drain began: try a larger DISK_MIB"
echo "A newcomer is refused:"
if k exec client -- timeout 5 nbdinfo --size "$uri" 2>&1 | sed 's/^/  /'; then
  die "a newcomer was served during the drain"
fi
kill -0 $slow 2>/dev/null || die "the slow copy did not outlast the newcomer: try a larger DISK_MIB"
echo "... while the slow copy goes on"
wait $slow || die "the slow copy failed"
got=$(cut -d' ' -f1 <"$work/slow.sum")
echo "sha256    $got"
[ "$got" = "$sum" ] || die "the slow copy differs from the disk"

step "The export has ended"
kr wait --for=condition=Complete nbdexport/vm-disk --timeout=60s
kr get nbdexport -o wide
exit=$(k get nbdexport vm-disk -o jsonpath='{.status.exit.condition} {.status.exit.clean}')
[ "$exit" = "vm-gone true" ] || die "the exit is '$exit', not 'vm-gone true'"
echo
echo "The main job is done: exported, streamed twice with the same sha256, ended by the"
echo "condition vm-gone, cleanly."
echo
if [ "$CLUSTER" = own ]; then
  echo "The cluster is still up: export KUBECONFIG=$KUBECONFIG; \"make demo-down\" stops it."
else
  echo "\"CLUSTER=current make demo-down\" takes away what this made."
fi
