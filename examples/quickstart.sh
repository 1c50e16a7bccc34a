#!/bin/sh
# The main job, end to end: a three-node cluster on this machine that holds real data and goes on when a node is killed.
#   ./examples/quickstart.sh              builds what it needs and cleans up behind itself
# KVKIT_BIN=DIR takes the programs from there instead of building them; KVKIT_PORT=N moves the ports.
set -eu

cd "$(dirname "$0")/.."
facts=examples/data/facts.ndjson
port=${KVKIT_PORT:-7400}

say() { printf '\n\033[1m%s\033[0m\n' "$1"; }
plain() { printf '\n%s\n' "$1"; }
if [ ! -t 1 ] || [ -n "${NO_COLOR:-}" ]; then alias say=plain; fi
show() { printf '$ %s\n' "$*"; "$@"; }

if [ -z "${KVKIT_BIN:-}" ]; then
    say "1. Build the four programs"
    show cargo build --release --quiet
    KVKIT_BIN=${CARGO_TARGET_DIR:-target}/release
fi
PATH=$(cd "$KVKIT_BIN" && pwd):$PATH
export PATH

work=$(mktemp -d)
data=$work/cluster
finish() {
    kvnode dev --stop --data "$data" >"$work/stop.log" 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "2. Start a cluster of three nodes; it stays in the background"
show kvnode dev -n 3 --detach --data "$data" --port "$port"
KVCTL_HOSTS=127.0.0.1:$((port + 1)),127.0.0.1:$((port + 11)),127.0.0.1:$((port + 21))
export KVCTL_HOSTS
show kvctl wait ready
show kvctl status

say "3. Import $(wc -l <"$facts" | tr -d ' ') facts: elements and countries; each is on two disks before it counts"
show kvctl import "$facts"

say "4. Read some back: exactly the bytes that were stored"
show kvctl get element:Au
printf '\n'
if command -v jq >/dev/null; then
    printf '$ kvctl get country:IS | jq -r .capital\n'
    kvctl get country:IS | jq -r .capital
fi
printf '$ kvctl keys country:B | kvctl mget | head -3\n'
kvctl keys country:B | kvctl mget | head -3

say "5. Kill node n2 for good: SIGKILL, no goodbye"
victim=$(cat "$data/n2/LOCK")
show kill -9 "$victim"

say "6. Reads and writes go on without an error: two of three replicas are a quorum"
show kvctl get element:Fe
printf '\n'
show kvctl put element:Uue '{"name":"Ununennium","number":119,"kind":"undiscovered"}'
show kvctl get element:Uue --explain
printf '\n'
show kvctl import "$facts"
show kvctl status

say "7. Start it again from its own directory: it recovers what it had acknowledged"
kvnode run -c "$data/n2/kvnode.toml" >"$work/n2.log" 2>&1 &
show kvctl wait ready
show kvctl inspect element:Uue

say "8. Compare every key on all three replicas, repair what n2 missed, and see that they agree"
printf '$ kvctl export -r all > backup.ndjson\n'
kvctl export -r all >"$work/backup.ndjson"
show kvctl wait converged
show kvctl inspect element:Uue
printf '$ kvctl export -r all > again.ndjson\n'
kvctl export -r all >"$work/again.ndjson"

say "9. The ring: who owns what, and where a key lies"
show kvring locate country:IS element:Au
show kvring balance
show kvring plot

say "10. An SSTable, read offline"
show kvctl delete element:Uue
kvnode dev --stop --data "$data" >"$work/stop.log" 2>&1
show kvsstable verify "$data/n1"
printf '$ kvsstable dump %s | head -3\n' "$data/n1"
kvsstable dump "$data/n1" | head -3

say "Done: the cluster is stopped and its data removed."
