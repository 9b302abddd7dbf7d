# Settings and functions of the cluster scripts; sourced, not run.
# Whatever is set with ":=" may be given in the environment.
# shellcheck shell=bash disable=SC2034
set -euo pipefail

CLUSTER_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO_DIR=$(cd "$CLUSTER_DIR/../.." && pwd)
: "${NBDEXPORT_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/nbdexport}"
: "${NBDEXPORT_RUN:=$NBDEXPORT_CACHE/run}" # state of the running cluster
: "${NBDEXPORT_NODES:=1}"
: "${NBDEXPORT_ROOT_DEVICES:=}" # numbers of nodes
export NBDEXPORT_CACHE NBDEXPORT_RUN NBDEXPORT_NODES NBDEXPORT_ROOT_DEVICES
BIN=$NBDEXPORT_CACHE/bin
IMAGES=$NBDEXPORT_CACHE/images # every *.tar in here is loaded into every node
RUN=$NBDEXPORT_RUN
export PATH=$PATH:/usr/sbin:/sbin

# All addresses live on a bridge and in network namespaces of this machine.
BRIDGE=nbde0
NET=10.199.0
HOST_IP=$NET.1       # the control plane
PODS=10.244          # node N has PODS.N.0/24 and the address NET.(10+N)
SERVICES=10.96.0.0/16
KUBERNETES_IP=10.96.0.1
DNS_IP=10.96.0.10
API=https://$HOST_IP:6443
node_ip() { echo "$NET.$((10 + $1))"; }

say() { echo "cluster: $*" >&2; }
die() {
  say "$*"
  exit 1
}
need_root() { [ "$(id -u)" = 0 ] || die "needs root: network namespaces, mounts and cgroups are made here. Run it as root or with sudo -E"; }
# step WHAT: one line per finished step, with the seconds since the script began.
step() { say "$(printf '%3d s  %s' "$SECONDS" "$*")"; }

# start NAME COMMAND...: run in the background and record PID and start time;
# together they name a process even after its PID has been given to another.
start() {
  local name=$1
  shift
  mkdir -p "$RUN/pids" "$RUN/log"
  setsid "$@" >"$RUN/log/$name.log" 2>&1 </dev/null 9>&- &
  record "$name" $!
}
record() { echo "$2 $(start_time "$2")" >"$RUN/pids/$1"; }
# Field 22 of stat, counted from behind the name, which may hold blanks. A
# zombie counts as dead: the machine's PID 1 may take seconds to reap it.
start_time() {
  sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '$1 != "Z" && $1 != "X" {print $20}'
}
pid_of() { cut -d' ' -f1 "$RUN/pids/$1"; }
alive() {
  local pid started
  read -r pid started 2>/dev/null <"$RUN/pids/$1" || return 1
  [ -n "$started" ] && [ "$(start_time "$pid")" = "$started" ]
}
# stop NAME [SECONDS]: TERM, SECONDS later KILL, and only what start recorded.
stop() {
  local name=$1 seconds=${2:-5} i
  if alive "$name"; then
    kill -TERM "$(pid_of "$name")" 2>/dev/null || true
    for ((i = 0; i < seconds * 10; i++)); do
      alive "$name" || break
      sleep 0.1
    done
    kill_now "$name"
  fi
  rm -f "$RUN/pids/$name"
}
kill_now() {
  local i
  alive "$1" || return 0
  kill -KILL "$(pid_of "$1")" 2>/dev/null || true
  for ((i = 0; i < 100; i++)); do
    alive "$1" || return 0
    sleep 0.1
  done
  say "process $(pid_of "$1") ($1) does not end after SIGKILL"
}

# wait_for SECONDS WHAT COMMAND...
wait_for() {
  local wf_seconds=$1 wf_what=$2 wf_i
  shift 2
  for ((wf_i = 0; wf_i < wf_seconds * 5; wf_i++)); do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.2
  done
  die "no $wf_what after $wf_seconds s"
}

# One script at a time may change the cluster. The scripts that up.sh and
# down.sh call inherit the lock; the daemons don't (see start).
lock() {
  [ -z "${NBDEXPORT_LOCKED:-}" ] || return 0
  mkdir -p "$RUN"
  exec 9>"$RUN/lock"
  flock -w 120 9 || die "another script has been changing this cluster for 120 s; if none runs, remove $RUN/lock"
  export NBDEXPORT_LOCKED=1
}

# api_silent yes|no: whether the API server's address takes and gives no packets.
api_silent() {
  {
    echo "add table ip nbde; delete table ip nbde" # there is none to delete otherwise
    [ "$1" = no ] || cat <<N
table ip nbde {
  chain in { type filter hook input priority raw; ip daddr $HOST_IP tcp dport 6443 drop; }
  chain out { type filter hook output priority raw; ip saddr $HOST_IP tcp sport 6443 drop; }
}
N
  } | nft -f -
}

kc() { "$BIN/kubectl" --kubeconfig "$RUN/admin.kubeconfig" "$@"; }
# The numbers of the nodes there are, up or not.
nodes() {
  local d
  for d in "$RUN"/n[0-9]*; do [ ! -d "$d" ] || echo "${d##*/n}"; done
}
# in_node N COMMAND...: run in a node's namespaces.
in_node() {
  local init
  init=$(pid_of "init-n$1" 2>/dev/null) || die "node n$1 is not up"
  shift
  nsenter -t "$init" -m -u -n -i -p -- "$@"
}
load_image() { in_node "$1" ctr -n k8s.io images import "$2" >/dev/null; }

# node_cgroups N: the root cgroup of a node, in each hierarchy of the machine.
node_cgroups() {
  local d
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    echo "/sys/fs/cgroup/nbde-n$1"
    return
  fi
  for d in /sys/fs/cgroup/*/; do
    # cpu,cpuacct and the like are links to one hierarchy.
    [ -L "${d%/}" ] || echo "${d}nbde-n$1"
  done
}
