//! Deletes, for good: tombstones go once every member has them, and nothing comes back.

use crate::live::{Live, json, lines, pairs};
use crate::node_fixture::{Result, ended, wait_for};

/// Tombstones of the whole cluster, as an export of all owners shows them.
fn tombstones(live: &Live) -> Option<usize> {
    let exported = live.kvctl(&["export", "-q", "-r", "all"]).output().ok()?;
    let text = String::from_utf8(exported.stdout).ok().filter(|_| exported.status.success())?;
    Some(text.lines().map(json).filter(|line| line["tombstone"] == true).count())
}

#[test]
fn deletes_with_an_owner_down_stay_until_it_has_them_and_are_then_forgotten_everywhere()
-> Result<()> {
    let live = Live::start_with(4, &[("KVNODE_STORAGE__MEMTABLE", "64KiB")])?;
    let (kept, gone) = (pairs(0..1_000), pairs(1_000..11_000));
    live.kvctl(&["import", "-q"]).write_stdin(lines(&kept)).assert().success();
    live.kvctl(&["import", "-q"]).write_stdin(lines(&gone)).assert().success();
    live.ok(&["wait", "converged"]);
    let node = &live.cluster.nodes[2];
    node.kill()?;
    let keys: Vec<&str> = gone.keys().map(String::as_str).collect();
    for keys in keys.chunks(500) {
        let delete: Vec<&str> =
            ["delete", "-w", "2"].into_iter().chain(keys.iter().copied()).collect();
        wait_for("the cluster to route around a killed node", || {
            live.kvctl(&delete).output().ok()?.status.success().then_some(())
        });
    }
    // A member that is down keeps every tombstone; `inspect` says so.
    let inspected = live.kvctl(&["inspect", keys[0]]).assert().code(1);
    let told = String::from_utf8_lossy(&inspected.get_output().stderr).into_owned();
    assert!(told.contains("n3"), "{told}");
    // One of the others restarts meanwhile.
    let other = &live.cluster.nodes[0];
    other.kill()?;
    let _other = ended(other.run().spawn()?);
    wait_for("the restarted node", || {
        let status = live.kvctl(&["status", "--json"]).output().ok()?;
        let status = json(String::from_utf8_lossy(&status.stdout).trim());
        status["nodes"].as_array()?.iter().find(|node| node["name"] == "n1")?["reachable"]
            .as_bool()?
            .then_some(())
    });

    let _back = ended(node.run().spawn()?);
    live.ok(&["wait", "ready"]);
    live.ok(&["wait", "converged"]);
    wait_for("all tombstones to be forgotten", || (tombstones(&live)? == 0).then_some(()));
    let (_, read) = live.export("all");
    assert_eq!(read, kept);
    let inspected = live.kvctl(&["inspect", keys[0], "--json"]).assert().code(1);
    let inspected = String::from_utf8_lossy(&inspected.get_output().stdout).into_owned();
    assert!(!inspected.contains("tombstone") && !inspected.contains("stale"), "{inspected}");
    // A key that was forgotten can be written again.
    live.ok(&["put", keys[0], "anew", "-w", "3"]);
    assert_eq!(live.ok(&["get", keys[0], "-r", "3"]), "anew");
    Ok(())
}
