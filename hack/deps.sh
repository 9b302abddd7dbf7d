#!/bin/bash
# Installs the Debian packages that the other scripts use; does nothing when
# they are there.
#   deps.sh cluster    what hack/cluster needs
#   deps.sh interop    the NBD clients and servers to test against, the C
#                      compiler that the race detector needs, and promtool,
#                      which is put into the cache
#   deps.sh vm         what hack/vm.sh needs, and the machine that boots it
set -euo pipefail
: "${NBDEXPORT_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/nbdexport}"

cluster="containerd runc containernetworking-plugins iptables nftables conntrack busybox-static iproute2 util-linux procps kmod e2fsprogs"
interop="nbdkit libnbd-bin python3-libnbd qemu-utils nbd-client fio e2fsprogs procps gcc libc6-dev"
vm="qemu-system-x86 busybox-static nbd-client fio e2fsprogs"

die() {
  echo "deps: $*" >&2
  exit 1
}

[ $# -gt 0 ] || die "usage: deps.sh cluster|interop|vm..."
wanted=() promtool=
for group in "$@"; do
  case $group in
  cluster) read -ra packages <<<"$cluster" ;;
  interop)
    read -ra packages <<<"$interop"
    command -v promtool "$NBDEXPORT_CACHE/bin/promtool" >/dev/null || promtool=promtool
    ;;
  vm) read -ra packages <<<"$vm" ;;
  *) die "there is no group '$group', only cluster, interop and vm" ;;
  esac
  wanted+=("${packages[@]}")
done

command -v dpkg-query >/dev/null || die "this is not Debian: install the like of ${wanted[*]}"
missing=()
for p in "${wanted[@]}"; do
  [ "$(dpkg-query -Wf '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
all=("${missing[@]}" ${promtool:+"$promtool"})
[ ${#all[@]} -gt 0 ] || exit 0

[ "$(id -u)" = 0 ] || die "needs root to install ${all[*]}: run sudo $0 $*"
export DEBIAN_FRONTEND=noninteractive
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
quietly() { "$@" >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; die "'$*' failed; see above"; }; }
# The lists may be stale or empty, and old ones name packages that are gone.
quietly apt-get -q update
if [ ${#missing[@]} -gt 0 ]; then
  quietly apt-get -q install -y --no-install-recommends "${missing[@]}"
fi
# The package would bring a daemon that starts at once: only the program is taken
# out of it.
if [ -n "$promtool" ]; then
  (cd "$tmp" && quietly apt-get -q download prometheus)
  quietly dpkg-deb -x "$tmp"/prometheus_*.deb "$tmp"
  mkdir -p "$NBDEXPORT_CACHE/bin"
  install "$tmp/usr/bin/promtool" "$NBDEXPORT_CACHE/bin/"
fi
echo "deps: installed ${all[*]} in $SECONDS s" >&2
