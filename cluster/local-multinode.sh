#!/usr/bin/env bash
# Three Ray nodes on one machine that see one another as on a network: each has an address, a /dev/shm and a session of its own.
#
#   sudo -E cluster/local-multinode.sh start|stop|status
#
# start makes what is missing, so it also brings back a node that was killed. A node is a network namespace on a bridge; all of
# them share the machine's files. The dashboard answers on the bridge, to whoever has the token.
# NODES=3 CPUS=2 (each) NET=10.77.0 RAY=ray
set -euo pipefail
NODES=${NODES:-3} CPUS=${CPUS:-2} NET=${NET:-10.77.0} RAY=${RAY:-ray}
BRIDGE=raystill0
SESSIONS=/run/raystill # mounted anew in each node; short, since Ray's sockets lie below it
TOKEN=$HOME/.raystill-local-token

fail() {
  echo "local-multinode: $1" >&2
  exit 1
}

living() { # the pids of a node, one a line
  ip netns pids "raystill$1" 2>/dev/null || true
}

there() { # the numbers of the nodes that have a namespace
  ip netns list | sed -n 's/^raystill\([0-9]\+\).*/\1/p' | sort -n
}

network() {
  local i=$1
  ip netns add "raystill$i"
  ip link add "raystill-v$i" type veth peer name eth0 netns "raystill$i"
  ip link set "raystill-v$i" master "$BRIDGE" up
  ip -n "raystill$i" addr add "$NET.$((i + 1))/24" dev eth0
  ip -n "raystill$i" link set eth0 up
  ip -n "raystill$i" link set lo up
  ip -n "raystill$i" route add default via "$NET.254" # engines ask which address leads out
}

node() { # start Ray in node $1
  local i=$1 role
  if ((i == 0)); then
    role=(--head --port=6379 --dashboard-host=0.0.0.0 --temp-dir="$SESSIONS")
  else
    role=(--address="$NET.1:6379")
  fi
  # Mounts of its own: two nodes' sockets and shared memory have the same names.
  # shellcheck disable=SC2016  # they are the inner shell's
  ip netns exec "raystill$i" unshare -m --propagation private bash -c '
    mount -t tmpfs -o size=1g tmpfs /dev/shm
    mount -t tmpfs tmpfs "$1"
    shift
    exec "$@"' _ "$SESSIONS" \
    "$RAY" start "${role[@]}" --node-ip-address="$NET.$((i + 1))" --num-cpus="$CPUS" \
    --object-store-memory=268435456 --disable-usage-stats >"/tmp/raystill-node-$i.log" 2>&1 </dev/null ||
    fail "node $i did not start; see /tmp/raystill-node-$i.log"
}

start() {
  command -v "$RAY" >/dev/null || fail "no '$RAY' on the PATH; type: RAY=.venv/bin/ray $0 start"
  mkdir -p "$SESSIONS"
  [[ -s $TOKEN ]] || (umask 077 && od -An -tx1 -N32 /dev/urandom | tr -d ' \n' >"$TOKEN")
  # Said on purpose: without it Ray turns authentication on or off by how it is started.
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$TOKEN
  # The machine's name leads to an address that no node has.
  export GLOO_SOCKET_IFNAME=eth0
  if ! ip link show "$BRIDGE" >/dev/null 2>&1; then
    ip link add "$BRIDGE" type bridge
    ip addr add "$NET.254/24" dev "$BRIDGE"
    ip link set "$BRIDGE" up
  fi
  for ((i = 0; i < NODES; i++)); do
    ip netns list | grep -qw "raystill$i" || network "$i"
    [[ -n $(living "$i") ]] || node "$i"
  done
  echo "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$TOKEN"
  echo "raystill submit RECIPE --to ray --address http://$NET.1:8265"
}

stop() {
  local i pids
  for i in $(there); do
    for signal in TERM KILL; do
      mapfile -t pids < <(living "$i")
      ((${#pids[@]} == 0)) || kill -s "$signal" "${pids[@]}" 2>/dev/null || true
      for _ in {1..50}; do
        [[ -n $(living "$i") ]] || break
        sleep 0.1
      done
    done
    ip netns del "raystill$i"
  done
  ip link del "$BRIDGE" 2>/dev/null || true
}

status() {
  local i
  for i in $(there); do
    echo "node $i  $NET.$((i + 1))  $(living "$i" | wc -l) processes"
  done
}

case ${1:-} in
start | stop | status)
  ((EUID == 0)) || fail "network namespaces need root; type: sudo -E $0 $1"
  command -v ip >/dev/null || fail "no 'ip' on the PATH; it comes with iproute2"
  "$1"
  ;;
*) fail "start, stop or status" ;;
esac
