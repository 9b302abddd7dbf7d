#!/bin/bash
# Builds what tests boot in virtual machines, out of Debian packages, into
# $NBDEXPORT_CACHE/vm; does nothing when it is there.
#   vmlinuz     Debian's kernel for virtual machines
#   initrd      mounts the first disk and goes on there: hack/vm/initrd
#   golden.img  that disk, a raw ext4 with busybox, nbd-client, fio, mkfs.ext4 and
#               reconnect: hack/vm/init does what the host tells it
# test/vm boots them.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
: "${NBDEXPORT_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/nbdexport}"
out=$NBDEXPORT_CACHE/vm
packages="qemu-system-x86 busybox-static nbd-client fio e2fsprogs"
modules="virtio_pci virtio_blk virtio_net nbd"

die() {
  echo "vm: $*" >&2
  exit 1
}
[ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || die "this builds on Debian for amd64 only"
# shellcheck disable=SC2086
versions=$(dpkg-query -W $packages 2>&1) || die "packages are missing: run hack/deps.sh vm"
cd "$repo"
stamp=$(
  echo "$versions"
  cat hack/vm.sh hack/vm/init* hack/vm/reconnect/*.go hack/image/*.go
)
stamp=$(sha256sum <<<"$stamp")
[ "$(cat "$out/stamp" 2>/dev/null)" != "$stamp" ] || exit 0

command -v go >/dev/null || die "go is not in PATH: install the Go version that go.mod names"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
quietly() { "$@" >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; die "'$*' failed; see above"; }; }

# The kernel isn't installed, only unpacked. Its package is named after its
# version, and lists of packages that are old name one that is gone.
download() {
  local package
  package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: //p')
  [ -n "$package" ] && (cd "$tmp" && apt-get -q download "$package") >"$tmp/log" 2>&1
}
if ! download; then
  [ "$(id -u)" = 0 ] || die "Debian's kernel can't be downloaded: run apt-get update as root"
  quietly apt-get -q update
  download || {
    cat "$tmp/log" >&2
    die "the package that linux-image-cloud-amd64 depends on can't be downloaded; see above"
  }
fi
dpkg-deb -x "$tmp"/linux-image-*.deb "$tmp/kernel"
version=$(basename "$tmp"/kernel/lib/modules/*)
quietly busybox depmod -b "$tmp/kernel" "$version"

# with MODULE... lists files of modules and of those that they need.
with() {
  local m
  for m in "$@"; do
    sed -n "s|^\(kernel/[^:]*/$m\.ko[^:]*\): *\(.*\)|\1 \2|p" "$tmp/kernel/lib/modules/$version/modules.dep"
  done | tr ' ' '\n' | sort -u
}

export GOFLAGS=-buildvcs=false GOWORK=off
go build -trimpath -o "$tmp/image" ./hack/image
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$tmp/reconnect" ./hack/vm/reconnect
# tree NAME ARGUMENT... makes a folder of files, with the modules and busybox.
tree() {
  local name=$1 args=(/bin/busybox:/bin/busybox) m
  shift
  # shellcheck disable=SC2086
  for m in $(with $modules); do args+=("$tmp/kernel/lib/modules/$version/$m:/lib/modules/$version/$m"); done
  "$tmp/image" -ldd -layer -o "$tmp/$name.tar" "${args[@]}" "$@"
  mkdir "$tmp/$name"
  tar -xf "$tmp/$name.tar" -C "$tmp/$name" --no-same-owner
  quietly busybox depmod -b "$tmp/$name" "$version"
}
tree initrd hack/vm/initrd:/init
mkdir "$tmp/initrd/root"

links=()
for a in $(busybox --list | grep -vx busybox); do links+=("@busybox:/bin/$a"); done
tree root hack/vm/init:/init "${links[@]}" "$tmp/reconnect:/bin/reconnect" \
  /usr/sbin/nbd-client:/sbin/nbd-client /usr/bin/fio:/bin/fio /sbin/mke2fs:/sbin/mkfs.ext4 /etc/mke2fs.conf:/etc/mke2fs.conf

mkdir -p "$out"
rm -f "$out/stamp"
cp "$tmp"/kernel/boot/vmlinuz-* "$out/vmlinuz"
(cd "$tmp/initrd" && find . | busybox cpio -o -H newc -R 0:0 2>/dev/null) >"$out/initrd"
truncate -s "$(($(du -sm "$tmp/root" | cut -f1) + 64))M" "$tmp/golden.img"
quietly mkfs.ext4 -q -F -m 0 -E lazy_itable_init=0,root_owner=0:0 -d "$tmp/root" "$tmp/golden.img"
mv "$tmp/golden.img" "$out/golden.img"
echo "$stamp" >"$out/stamp"
echo "vm: kernel $version, and a root file system of $(du -h "$out/golden.img" | cut -f1), in $SECONDS s" >&2
