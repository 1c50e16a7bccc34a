//! Outages one after the other under load: a node dies for good, one loses its disk, one is cut off, one is killed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use crate::faults_kill::seed;
use crate::faulty_cluster::FaultyCluster;
use crate::faulty_net::{Fault, Kind};
use crate::live::json;
use crate::live_kills::number;
use crate::load::{Entry, Load, assert_failed_only_behind, judge, now};
use crate::node_fixture::{Result, wait_for};
use crate::refill::wipe;
use crate::tool::{stdout, tool};

/// Seconds that a node is cut off; the long form is `KVKIT_OUTAGE_SECONDS=60`.
const CUT_SECONDS: u32 = 8;
/// Writes that must go through in each outage.
const WRITES: u64 = 300;
/// Keys whose replicas are looked at one by one.
const KEYS: usize = 24;

/// Every owner of the load's keys that is up holds the same.
fn assert_owners_agree(cluster: &FaultyCluster, gone: &str) {
    let exported = cluster.kvctl(&["keys", "k"]).assert().success();
    let keys: Vec<String> = stdout(&exported).lines().map(str::to_owned).collect();
    assert!(keys.len() >= KEYS, "{} keys", keys.len());
    for key in keys.iter().take(KEYS) {
        let inspected = cluster.kvctl(&["inspect", key, "--json"]).assert();
        let text = stdout(&inspected);
        let told: Vec<serde_json::Value> = text.lines().map(json).collect();
        let states: Vec<&str> = told
            .iter()
            .filter(|line| line["type"] == "replica" && line["node"] != gone)
            .filter_map(|replica| replica["state"].as_str())
            .collect();
        assert!(states.len() >= 2, "{text}");
        assert!(states.iter().all(|state| *state == "newest"), "{key}: {text}");
    }
}

/// Slots of a partition: these tests' clusters have 64.
const PARTITION_SLOTS: u64 = 1_024;

/// Slots that both own.
fn slots_of_both(cluster: &FaultyCluster, one: &str, other: &str) -> u64 {
    // So many keys miss none of 64 partitions.
    let keys = (0..4_000).fold(String::new(), |mut keys, number| {
        let _ = writeln!(keys, "{number}");
        keys
    });
    let mut command = tool("kvring");
    command.args(["locate", "-", "--plain"]).env("KVCTL_HOSTS", cluster.hosts()[1..].join(","));
    let located = stdout(&command.write_stdin(keys).assert().success());
    let both: BTreeSet<&str> = located
        .lines()
        .filter_map(|line| {
            let [_, _, partition, owners] = line.split('\t').collect::<Vec<_>>()[..] else {
                return None;
            };
            let owns = |name| owners.split(',').any(|owner| owner == name);
            (owns(one) && owns(other)).then_some(partition)
        })
        .collect();
    both.len() as u64 * PARTITION_SLOTS
}

fn slots_left(cluster: &FaultyCluster) -> Option<u64> {
    let status = cluster.kvctl(&["repair", "status", "--json"]).output().ok()?;
    let text = String::from_utf8(status.stdout).ok()?;
    let refills = text.lines().map(json).filter(|line| line["type"] == "refill");
    Some(refills.filter_map(|line| line["slots_left"].as_u64()).sum())
}

#[test]
fn five_nodes_outlive_a_death_a_lost_disk_a_cut_and_a_kill_under_load() -> Result<()> {
    let (seed, again) = seed();
    let mut cluster = FaultyCluster::start(5)?;
    let hosts = cluster.hosts();
    let peers: Vec<String> = cluster.nodes.iter().map(|node| node.peer.clone()).collect();
    // Clients that know the living.
    let load = Load::start("k", seed, &[Entry::Hosts(hosts[1..].to_vec())]);
    load.wait_for_more(WRITES, &format!("before anything; {again}"));
    let mut moments = Vec::new();
    let converge = |cluster: &FaultyCluster| {
        cluster.kvctl(&["wait", "converged"]).assert().success();
    };

    // n1 dies for good.
    moments.push(load.now());
    cluster.nodes[0].kill()?;
    load.wait_for_more(WRITES, &format!("without n1; {again}"));
    converge(&cluster);

    // n2 loses its disk, but for who it is.
    moments.push(load.now());
    cluster.nodes[1].kill()?;
    wipe(&cluster.nodes[1].data_dir)?;
    load.wait_for_more(WRITES, &format!("without n1 and n2; {again}"));
    let seeds = peers.iter().filter(|peer| **peer != cluster.nodes[1].peer);
    let seeds = seeds.cloned().collect::<Vec<_>>().join(",");
    cluster.nodes[1].variables.push(("KVNODE_NODE__SEEDS".to_owned(), seeds));
    cluster.nodes[1].restart()?;
    load.wait_for_more(WRITES, &format!("with n2 refilling; {again}"));
    // What n1 owned too has one sound owner left: the operator knows that n1 had nothing that this one lacks.
    let both = slots_of_both(&cluster, "n1", "n2");
    assert!(both > 0);
    wait_for("n2 to refill what two sound owners hold", || {
        (slots_left(&cluster)? == both).then_some(())
    });
    cluster.kvctl(&["repair", "accept-loss", "n2", "all", "--yes"]).assert().success();
    converge(&cluster);

    // n3 is cut off, and comes back.
    moments.push(load.now());
    cluster.net.part(&["n3"], &["n2", "n4", "n5"], Fault::Cut);
    let end = now() + Duration::from_secs(number("KVKIT_OUTAGE_SECONDS", CUT_SECONDS).into());
    while now() < end {
        load.wait_for_more(WRITES, &format!("with n3 cut off; {again}"));
    }
    assert!(cluster.net.met("n4", "n3", Some(Kind::Cut)) > 0, "nothing was cut");
    moments.push(load.now());
    cluster.net.heal();
    load.wait_for_more(WRITES, &format!("with n3 back; {again}"));
    converge(&cluster);

    // n4 is killed and started.
    moments.push(load.now());
    cluster.nodes[3].kill()?;
    load.wait_for_more(WRITES, &format!("without n4; {again}"));
    cluster.nodes[3].restart()?;
    load.wait_for_more(WRITES, &format!("with n4 back; {again}"));

    let (history, failed) = load.stop();
    converge(&cluster);
    assert_owners_agree(&cluster, "n1");
    // Each key's owners but n1.
    judge(&history, hosts[1..].to_vec(), &again)?;
    assert_failed_only_behind(&moments, failed, &again);
    Ok(())
}
