#!/bin/sh
# Starts and stops instances of kvnode@.service, for kvctl autoscale: see systemd.toml. Run as root.
#   systemd-node.sh start|stop      the node is named by KVKIT_NODE, its cluster by KVKIT_CLUSTER and KVKIT_SEEDS
# /etc/kvnode/NAME.toml is used where it is there. Else it is made of /etc/kvnode/template.toml (see the one beside this
# script), in which @NODE@, @ZONE@, @CLUSTER@ and @SEEDS@ are filled in. KVKIT_HOST=HOST does all of it there, by ssh;
# KVKIT_CONFIG_DIR=DIR stands for /etc/kvnode. Both actions may be repeated.
set -eu

name=${KVKIT_NODE:?is the node to start or stop}
unit=kvnode@$name.service
etc=${KVKIT_CONFIG_DIR:-/etc/kvnode}

there() {
    if [ -n "${KVKIT_HOST:-}" ]; then ssh -o BatchMode=yes "$KVKIT_HOST" "$1"; else sh -c "$1"; fi
}

case ${1:-} in
start)
    seeds=$(printf '"%s"' "${KVKIT_SEEDS:?are nodes to join}" | sed 's/,/", "/g')
    fill="s/@NODE@/$name/g; s/@ZONE@/${KVKIT_ZONE:-}/g; s/@CLUSTER@/${KVKIT_CLUSTER:?is the cluster to join}/g; s|@SEEDS@|$seeds|g"
    there "[ -e $etc/$name.toml ] || sed '$fill' $etc/template.toml >$etc/$name.toml"
    # The unit is ready once the node is a member, and that is for kvctl autoscale to see to.
    there "systemctl start --no-block $unit"
    ;;
stop)
    # The node gave its data away, or never became a member: its directory would not be let in again.
    there "systemctl stop $unit && systemctl clean --what=state $unit"
    ;;
*)
    echo "usage: systemd-node.sh start|stop" >&2
    exit 2
    ;;
esac
