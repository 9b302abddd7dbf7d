#!/bin/bash
# Builds what the test cluster runs, from Go modules only. What is there in the
# wanted version is not built again.
#   build.sh            everything
#   build.sh envtest    etcd, kube-apiserver and kubectl: enough for envtest
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
case ${1:-all} in all | envtest) what=${1:-all} ;; *) die "usage: build.sh [envtest]" ;; esac
command -v go >/dev/null || die "go is not in PATH: install the Go version that go.mod names"

# CGO off: the binaries run in any image and need no C compiler.
export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off
mkdir -p "$BIN/.stamps" "$IMAGES"
go_version=$(go env GOVERSION)

# build MODULE TAGS LDFLAGS NAME=PACKAGE...: a binary is built anew when the Go
# version, the flags, the module's go.mod or its own Go files change.
build() {
  local module=$CLUSTER_DIR/$1 tags=$2 ldflags="-s -w $3" name package want
  shift 3
  for package in "$@"; do
    name=${package%%=*} package=${package#*=}
    want=$({
      echo "$go_version $tags $ldflags $package"
      find "$module" -type f ! -name '*_test.go' \( -name '*.go' -o -name 'go.*' \) -print0 | sort -z | xargs -0 cat
    } | sha256sum)
    if [ -x "$BIN/$name" ] && [ "$(cat "$BIN/.stamps/$name" 2>/dev/null)" = "$want" ]; then continue; fi
    (cd "$module" && go build -trimpath -tags "$tags" -ldflags "$ldflags" -o "$BIN/$name.new" "$package") ||
      die "$name does not build; see above. Without network, is GOPROXY reachable?"
    mv "$BIN/$name.new" "$BIN/$name" # a running binary can't be written to, but replaced
    echo "$want" >"$BIN/.stamps/$name"
    step "built $name"
  done
}

# Kubernetes takes its version from the linker; without one it says v0.0.0, and
# the kubelet and clients compare versions.
kubernetes() {
  local version minor x='' p c
  version=$(awk '$1 == "require" && $2 == "k8s.io/kubernetes" {print $3}' "$CLUSTER_DIR/kubernetes/go.mod")
  minor=${version#v1.}
  for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    x+=" -X $p.gitVersion=$version -X $p.gitMajor=1 -X $p.gitMinor=${minor%%.*} -X $p.gitTreeState=clean"
  done
  for c in "$@"; do
    build kubernetes notest,grpcnotrace "$x" "$c=k8s.io/kubernetes/cmd/$c"
  done
}

build etcd "" "" etcd=go.etcd.io/etcd/server/v3
kubernetes kube-apiserver kubectl
if [ "$what" = all ]; then
  kubernetes kube-controller-manager kube-scheduler kubelet kube-proxy
  build coredns "" "" coredns=.
  build provisioner "" "" provisioner=.
  build pki "" "" pki=.
  build pause "" "" pause=.
  build ../image "" "" image=.

  [ -x /bin/busybox ] || die "/bin/busybox is missing: run hack/deps.sh cluster"
  "$BIN/image" -o "$IMAGES/pause.tar" -t localhost/pause:1 -user 65535:65535 -entrypoint /pause "$BIN/pause:/pause"
  "$BIN/image" -o "$IMAGES/coredns.tar" -t localhost/coredns:1 -entrypoint /coredns "$BIN/coredns:/coredns"
  # For smoke.sh: a shell and a web server.
  applets=()
  for a in $(/bin/busybox --list | grep -vx busybox); do applets+=("@busybox:/bin/$a"); done
  "$BIN/image" -o "$IMAGES/busybox.tar" -t localhost/busybox:1 -entrypoint /bin/sh /bin/busybox:/bin/busybox "${applets[@]}"
fi
step "everything for '$what' is in $BIN"
