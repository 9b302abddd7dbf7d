#!/bin/bash
# Builds the images that the cluster's tests run, without a container engine,
# into $NBDEXPORT_CACHE/images, from where hack/cluster/up.sh takes them:
#   nbdexport.tar     localhost/nbdexport:dev   /nbdserver and /manager
#   nbd-client.tar    localhost/nbd-client:dev  nbdcopy, nbdinfo, qemu-img, qemu-io, busybox
# A running cluster gets them with hack/cluster/load.sh.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
: "${NBDEXPORT_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/nbdexport}"
bin=$NBDEXPORT_CACHE/bin
images=$NBDEXPORT_CACHE/images

say() { echo "image: $*" >&2; }
die() {
  say "$*"
  exit 1
}
step() { say "$(printf '%3d s  %s' "$SECONDS" "$*")"; }

command -v go >/dev/null || die "go is not in PATH: install the Go version that go.mod names"
mkdir -p "$bin" "$images"
version=${NBDEXPORT_VERSION:-$(git -C "$repo" describe --tags --always --dirty 2>/dev/null || echo dev)}
cd "$repo"
export GOFLAGS=-buildvcs=false GOWORK=off # the version comes from us, and only from us
go build -trimpath -o "$bin/image" ./hack/image || die "hack/image does not build; see above"
image() { "$bin/image" "$@"; }

for c in nbdserver manager; do
  [ -d "cmd/$c" ] || die "there is no cmd/$c to build"
  CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$version" -o "$bin/$c" "./cmd/$c" ||
    die "cmd/$c does not build; see above"
done
image -o "$images/nbdexport.tar" -t localhost/nbdexport:dev -user 65532:65532 -entrypoint /nbdserver \
  -label "org.opencontainers.image.version=$version" "$bin/nbdserver:/nbdserver" "$bin/manager:/manager"
step "localhost/nbdexport:dev, version $version"

# The reference clients of Debian, with their libraries and no package manager.
files=()
for f in /usr/bin/nbdcopy /usr/bin/nbdinfo /usr/bin/qemu-img /usr/bin/qemu-io; do
  [ -x "$f" ] || die "$f is missing: run hack/deps.sh interop"
  files+=("$f:$f")
done
[ -x /bin/busybox ] || die "/bin/busybox is missing: run hack/deps.sh cluster"
files+=(/bin/busybox:/bin/busybox)
for a in $(/bin/busybox --list | grep -vx busybox); do files+=("@busybox:/bin/$a"); done
image -ldd -o "$images/nbd-client.tar" -t localhost/nbd-client:dev -user 65532:65532 -entrypoint /bin/sh "${files[@]}"
step "localhost/nbd-client:dev"
