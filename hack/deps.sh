#!/bin/bash
# Installs the Debian packages that the other scripts use; does nothing when
# they are there.
#   deps.sh cluster    what hack/cluster needs
#   deps.sh interop    the NBD clients and servers to test against, and the C
#                      compiler that the race detector needs
set -euo pipefail

cluster="containerd runc containernetworking-plugins iptables nftables conntrack busybox-static iproute2 util-linux procps kmod e2fsprogs"
interop="nbdkit libnbd-bin python3-libnbd qemu-utils nbd-client fio e2fsprogs gcc libc6-dev"

die() {
  echo "deps: $*" >&2
  exit 1
}

[ $# -gt 0 ] || die "usage: deps.sh cluster|interop..."
wanted=()
for group in "$@"; do
  case $group in
  cluster) read -ra packages <<<"$cluster" ;;
  interop) read -ra packages <<<"$interop" ;;
  *) die "there is no group '$group', only cluster and interop" ;;
  esac
  wanted+=("${packages[@]}")
done

command -v dpkg-query >/dev/null || die "this is not Debian: install the like of ${wanted[*]}"
missing=()
for p in "${wanted[@]}"; do
  [ "$(dpkg-query -Wf '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0

[ "$(id -u)" = 0 ] || die "needs root to install ${missing[*]}: run sudo $0 $*"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() { "$@" >"$log" 2>&1 || { cat "$log" >&2; die "'$*' failed; see above"; }; }
# The lists may be stale or empty, and old ones name packages that are gone.
quietly apt-get -q update
quietly apt-get -q install -y --no-install-recommends "${missing[@]}"
echo "deps: installed ${missing[*]} in $SECONDS s" >&2
