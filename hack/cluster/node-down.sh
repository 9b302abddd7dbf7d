#!/bin/bash
# Takes a node away at once, as a power cut does: the end of its first process
# ends kubelet, containerd and all containers. The node's images and volumes
# stay for node-up.sh.
#   node-down.sh NUMBER
#   node-down.sh NUMBER purge    they go, too
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
need_root
lock
i=${1:?usage: node-down.sh NUMBER [purge]} name=n$1 dir=$RUN/n$1
[ -d "$dir" ] || die "there is no node $name"

kill_now "init-$name"
# What is left are unshare and nsenter, whose children are gone.
for p in init kubelet kube-proxy containerd node; do stop "$p-$name" 0; done
ip link del "nbde-$name" 2>/dev/null || true

# The provisioner's loop devices are the node's disks: they outlast a power
# cut. Those that the kubelet put upon them, to hold them, don't; they are
# known by their disk's inode, for their path went with the node's mounts.
detach() { losetup -d "$1" || say "can't detach $1"; }
disks=$(losetup -nO NAME,BACK-FILE | awk -v d="$dir/kubelet/nbde-volumes/" 'index($2, d) == 1 {print $1}')
for disk in $disks; do
  backing=$(stat -c '%i %Hd:%Ld' "$disk")
  for loop in $(losetup -nO NAME,BACK-INO,BACK-MAJ:MIN | awk -v b="$backing" '$2 " " $3 == b {print $1}'); do
    detach "$loop"
  done
  [ "${2:-}" != purge ] || detach "$disk"
done

# Killed processes leave their cgroups one by one; folders go deepest first.
node_cgroups "$i" | while read -r d; do
  for ((k = 0; k < 50; k++)); do
    [ -d "$d" ] || break
    find "$d" -depth -type d -exec rmdir {} + 2>/dev/null || true
    [ ! -d "$d" ] || sleep 0.1
  done
  [ ! -d "$d" ] || say "cgroup $d is not empty"
done

# A reboot would have emptied /run and lost the pods' addresses.
rm -rf "$dir/init-ready" "$dir/cni"
if [ "${2:-}" = purge ]; then
  rm -rf "$dir"
else
  step "node $name is gone"
fi
