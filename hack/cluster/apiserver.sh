#!/bin/bash
# Starts or stops the API server, and nothing else of the control plane.
#   apiserver.sh start    returns when it is ready
#   apiserver.sh stop     as a power cut of its machine does
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
need_root
lock
P=$RUN/pki
[ -d "$P" ] || die "there is no cluster: run hack/cluster/up.sh"
api_ready() { alive kube-apiserver && kc get --raw /readyz; }

case ${1:-} in
start)
  api_silent no
  ! alive kube-apiserver || exit 0
  # enable-aggregator-routing: to reach webhooks the API server goes to the pods
  # themselves and needs no kube-proxy on this machine.
  start kube-apiserver "$BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:12379 \
    --bind-address="$HOST_IP" --advertise-address="$HOST_IP" --secure-port=6443 \
    --service-cluster-ip-range="$SERVICES" --enable-aggregator-routing=true --allow-privileged=true \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --client-ca-file="$P/ca.crt" --tls-cert-file="$P/apiserver.crt" --tls-private-key-file="$P/apiserver.key" \
    --kubelet-certificate-authority="$P/ca.crt" --kubelet-preferred-address-types=InternalIP \
    --kubelet-client-certificate="$P/apiserver-kubelet-client.crt" --kubelet-client-key="$P/apiserver-kubelet-client.key" \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file="$P/sa.pub" --service-account-signing-key-file="$P/sa.key" \
    --requestheader-client-ca-file="$P/front-proxy-ca.crt" --requestheader-allowed-names=front-proxy-client \
    --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group \
    --requestheader-username-headers=X-Remote-User \
    --proxy-client-cert-file="$P/front-proxy-client.crt" --proxy-client-key-file="$P/front-proxy-client.key"
  wait_for 300 "API server (see $RUN/log/kube-apiserver.log)" api_ready
  ;;
# At once: an orderly end would take it out of its Service first. And nobody is
# refused: whoever is, asks again later and later, up to a minute and more.
stop)
  api_silent yes
  stop kube-apiserver 0
  ;;
*) die "usage: apiserver.sh start|stop" ;;
esac
