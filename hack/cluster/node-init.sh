#!/bin/bash
# The first process of a node, in namespaces that node-up.sh made: gives the
# node its own state folders and collects orphans. Its end ends the node.
#   node-init.sh NAME STATE_FOLDER
set -euo pipefail
name=$1 dir=$2

# The kubelet's mounts must reach its containers, but never leave the node.
mount --make-rshared /
hostname "$name"
mount -t tmpfs -o mode=755,size=256m tmpfs /run
mkdir -p /run/lock /run/netns
own() {
  mount --bind "$dir/$1" "$2"
  mount --make-shared "$2"
}
own kubelet /var/lib/kubelet
own containerd /var/lib/containerd
own cni /var/lib/cni
own pods-log /var/log
own cni-config /etc/cni/net.d
ip link set lo up
touch "$dir/init-ready"
# bash, as PID 1, collects every child that ends.
while :; do
  sleep 3600 &
  wait $! || true
done
