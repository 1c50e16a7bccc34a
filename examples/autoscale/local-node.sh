#!/bin/sh
# Starts and stops further nodes of a cluster on this machine, for kvctl autoscale: see local.toml.
#   local-node.sh start|stop        the node is named by KVKIT_NODE, its cluster by KVKIT_CLUSTER and KVKIT_SEEDS
# KVKIT_LOCAL_DIR=DIR holds the nodes' directories (default: nodes beside this script); KVKIT_BIN=DIR has kvnode, where
# the PATH has not. Both actions may be repeated: what is done already is left alone.
set -eu

name=${KVKIT_NODE:?is the node to start or stop}
root=${KVKIT_LOCAL_DIR:-$(dirname "$0")/nodes}
mkdir -p "$root"
root=$(cd "$root" && pwd)
dir=$root/$name
config=$root/$name.toml
PATH=${KVKIT_BIN:+$KVKIT_BIN:}$PATH

# The process that runs the node, if one does: a process id alone may be another's by now.
running() {
    pid=$(cat "$dir/LOCK" 2>/dev/null) && [ -n "$pid" ] &&
        tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF "$config" && echo "$pid"
}

start() {
    if running >/dev/null; then exit 0; fi
    seeds=$(printf '"%s"' "${KVKIT_SEEDS:?are nodes to join}" | sed 's/,/", "/g')
    # Port 0: the system chooses one that is free. The heartbeat is that of kvnode dev.
    cat >"$config" <<TOML
[node]
name = "$name"
zone = "${KVKIT_ZONE:-}"
data_dir = "$dir"
cluster = "${KVKIT_CLUSTER:?is the cluster to join}"
seeds = [$seeds]
join = "staged"
[listen]
peer = "127.0.0.1:0"
client = "127.0.0.1:0"
http = ""
[gossip]
interval = "200ms"
TOML
    kvnode check-config -q -c "$config"
    nohup kvnode run -c "$config" >>"$root/$name.log" 2>&1 </dev/null &
}

# A node that gave its data away has ended by itself; one that never became a member is ended here.
stop() {
    while pid=$(running); do
        kill "$pid" 2>/dev/null || true
        sleep 0.1
    done
    rm -rf "$dir" "$config"
}

case ${1:-} in
start) start ;;
stop) stop ;;
*)
    echo "usage: local-node.sh start|stop" >&2
    exit 2
    ;;
esac
