//! Clusters whose network holds, cuts and delays what nodes tell each other.

use std::time::Duration;

use predicates::prelude::*;
use predicates::str::{contains, is_empty};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::faults_kill::seed;
use crate::faulty_cluster::FaultyCluster;
use crate::faulty_net::{Fault, Kind};
use crate::history::Told;
use crate::live::json;
use crate::load::{Entry, Load, judge};
use crate::node_fixture::{Result, wait_for};
use crate::tool::stdout;

/// Rounds of random faults.
const ROUNDS: u32 = 12;

/// What each owner of a key holds, as `inspect` shows it.
fn held(cluster: &FaultyCluster, key: &str) -> Vec<Value> {
    let inspected = cluster.kvctl(&["inspect", key, "--json"]).assert().success();
    stdout(&inspected).lines().map(|line| json(line)["siblings"].clone()).collect()
}

#[test]
fn the_minority_refuses_and_the_majority_goes_on_where_the_mode_is_consistent() -> Result<()> {
    let (seed, again) = seed();
    let cluster = FaultyCluster::start_with(3, "mode = \"consistent\"", |_| ())?;
    let [minority, majority] = [&cluster.nodes[0], &cluster.nodes[1]];
    cluster.kvctl(&["put", "k", "before"]).assert().success();
    let alone = Load::start("k", seed, &[Entry::Socket(minority.socket())]);
    let others = Load::start("o", seed, &[Entry::Socket(majority.socket())]);
    alone.wait_for_more(10, "before the partition");
    others.wait_for_more(10, "before the partition");

    cluster.net.part(&["n1"], &["n2", "n3"], Fault::Hold);
    let parted = alone.now();
    let quick = ["--timeout", "2s"];
    for arguments in [&["put", "k", "minority"][..], &["delete", "k"]] {
        let arguments = [arguments, &quick, &["--json"]].concat();
        let refused = minority.kvctl(&arguments).assert().code(75).stdout(is_empty());
        let error = json(&String::from_utf8_lossy(&refused.get_output().stderr));
        let outcome = error["outcome"].as_str().unwrap_or_default().to_owned();
        assert!(["not_applied", "unknown"].contains(&outcome.as_str()), "{error}");
    }
    minority.kvctl(&["get", "k"]).args(quick).assert().code(75).stdout(is_empty());
    others.wait_for_more(100, "on the majority's side");
    wait_for("the majority to write", || {
        majority.kvctl(&["put", "k", "majority"]).output().ok()?.status.success().then_some(())
    });
    // Once its deadline told it so, the minority refuses at once and before it writes.
    let refused = || minority.kvctl(&["put", "k", "minority", "--json"]).output().ok();
    wait_for("a refusal before the write", || {
        String::from_utf8_lossy(&refused()?.stderr).contains("not_applied").then_some(())
    });
    minority.kvctl(&["get", "k"]).args(quick).assert().code(75).stdout(is_empty());
    assert!(cluster.net.met("n1", "n2", Some(Kind::Hold)) > 0, "nothing was held");

    let healed = alone.now();
    cluster.net.heal();
    alone.wait_for_more(10, "behind the partition");
    cluster.settle();
    let (history, _) = alone.stop();
    let wrongly = history.writes.iter().find(|write| {
        parted < write.began
            && write.ended < healed
            && matches!(write.told, Told::Acknowledged { .. })
    });
    assert!(wrongly.is_none(), "the minority acknowledged {wrongly:?}");
    let none = history.reads.iter().find(|read| parted < read.began && read.ended < healed);
    assert!(none.is_none(), "the minority answered {none:?}");
    judge(&history, cluster.hosts(), &again)?;
    let (history, _) = others.stop();
    judge(&history, cluster.hosts(), &again)?;
    cluster
        .kvctl(&["get", "k"])
        .assert()
        .code(predicate::in_iter([0, 3]))
        .stderr(is_empty().or(contains("majority")));
    Ok(())
}

/// Both sides of a partition write one key; behind it both values stand until somebody resolves them.
#[test]
fn both_sides_go_on_where_the_mode_is_available_and_their_conflicts_are_shown() -> Result<()> {
    let (seed, again) = seed();
    let cluster = FaultyCluster::start(5)?;
    let (few, many) = (&cluster.nodes[0], &cluster.nodes[4]);
    let owners_on_both_sides = |key: &String| {
        let (few, many): (Vec<_>, Vec<_>) =
            cluster.owners(key).into_iter().partition(|name| ["n1", "n2"].contains(&name.as_str()));
        !few.is_empty() && !many.is_empty()
    };
    let cart = (0..1_000).map(|number| format!("cart:{number}")).find(owners_on_both_sides);
    let cart = cart.as_deref().ok_or("no key has owners on both sides")?;
    cluster.kvctl(&["put", cart, r#"{"items":[]}"#, "-w", "all"]).assert().success();
    let sides = [Entry::Socket(few.socket()), Entry::Socket(many.socket())];
    let load = Load::start("k", seed, &sides);
    load.wait_for_more(10, "before the partition");

    cluster.net.part(&["n1", "n2"], &["n3", "n4", "n5"], Fault::Hold);
    for (side, value) in [(few, r#"{"items":["book"]}"#), (many, r#"{"items":["pen"]}"#)] {
        wait_for("each side to write", || {
            side.kvctl(&["put", cart, value]).output().ok()?.status.success().then_some(())
        });
        wait_for("each side to read its own write", || {
            let got = side.kvctl(&["get", cart]).output().ok()?;
            (got.status.success() && got.stdout == value.as_bytes()).then_some(())
        });
    }
    load.wait_for_more(100, "on both sides");

    cluster.net.heal();
    cluster.settle();
    load.wait_for_more(10, "behind the partition");
    let (history, _) = load.stop();
    judge(&history, cluster.hosts(), &again)?;
    cluster
        .kvctl(&["get", cart])
        .assert()
        .code(3)
        .stdout(is_empty())
        .stderr(contains("has 2 siblings").and(contains("book")).and(contains("pen")));
    cluster.kvctl(&["resolve", cart, "--merge", "json", "-w", "all"]).assert().success();
    for node in &cluster.nodes {
        node.kvctl(&["get", cart]).assert().success().stdout(r#"{"items":["book","pen"]}"#);
    }
    cluster.assert_nobody_misses_writes();
    let held = held(&cluster, cart);
    assert_eq!(held.len(), 3);
    assert!(
        held.iter().all(|one| one == &held[0] && one.as_array().map(Vec::len) == Some(1)),
        "{held:?}"
    );
    Ok(())
}

#[test]
fn a_link_that_is_cut_one_way_disturbs_nobody_else() -> Result<()> {
    let (seed, again) = seed();
    let cluster = FaultyCluster::start(4)?;
    let load = Load::start("k", seed, &[Entry::Hosts(cluster.hosts())]);
    load.wait_for_more(10, "before the cut");
    for fault in [Fault::Hold, Fault::Cut, Fault::HalfOpen] {
        cluster.net.set(&["n1"], &["n2"], fault);
        load.wait_for_more(200, &format!("with {fault:?} from n1 to n2; {again}"));
        let third = cluster.nodes[2].kvctl(&["status", "--json"]).assert().success();
        let third = json(stdout(&third).trim());
        let of = |name: &str| {
            let nodes = third["nodes"].as_array().cloned().unwrap_or_default();
            nodes.into_iter().find(|node| node["name"] == name).unwrap_or_default()
        };
        for bystander in ["n3", "n4"] {
            assert_eq!(of(bystander)["health"], "up", "{third}");
        }
        cluster.net.heal();
        cluster.settle();
    }
    for kind in [Kind::Hold, Kind::Cut, Kind::HalfOpen] {
        assert!(cluster.net.met("n1", "n2", Some(kind)) > 0, "no {kind:?} was met");
        assert_eq!(cluster.net.met("n2", "n1", Some(kind)), 0, "{kind:?} met the way back");
    }
    cluster.assert_nobody_misses_writes();
    let (history, _) = load.stop();
    judge(&history, cluster.hosts(), &again)
}

/// Partitions, one-way cuts, half-open links, late messages and kills, some of them together.
#[test]
fn nothing_is_lost_whatever_the_network_does() -> Result<()> {
    let (seed, again) = seed();
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let mut cluster = FaultyCluster::start(5)?;
    let load = Load::start("k", seed, &[Entry::Hosts(cluster.hosts())]);
    load.wait_for_more(10, "before the first fault");
    let names: Vec<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for round in 0..ROUNDS {
        let fault = match round % 4 {
            0 => Fault::Delay(Duration::from_millis(chance.random_range(1..100))),
            1 => Fault::Hold,
            2 => Fault::Cut,
            _ => Fault::HalfOpen,
        };
        let some: Vec<&str> = names.choose_multiple(&mut chance, 2).copied().collect();
        let rest: Vec<&str> = names.iter().filter(|name| !some.contains(*name)).copied().collect();
        match (fault, chance.random_range(0..3)) {
            (Fault::Delay(_), _) => cluster.net.set(&names, &names, fault),
            (_, 0) => cluster.net.set(&some[..1], &some[1..], fault),
            (_, 1) => cluster.net.set(&some[..1], &rest, fault),
            (_, _) => cluster.net.part(&some, &rest, fault),
        }
        let victim = chance.random_range(0..cluster.nodes.len());
        let is_killed = chance.random_ratio(1, 4);
        if is_killed {
            cluster.nodes[victim].kill()?;
        }
        load.wait_for_more(40, &format!("in round {round} of {fault:?}; {again}"));
        if chance.random_ratio(3, 4) {
            cluster.net.heal();
        }
        if is_killed {
            // It finds a majority of the others whatever is cut.
            cluster.net.heal();
            cluster.nodes[victim].restart()?;
        }
    }
    cluster.net.heal();
    cluster.settle();
    load.wait_for_more(10, "behind the last fault");
    let (history, _) = load.stop();
    judge(&history, cluster.hosts(), &again)?;
    cluster.kvctl(&["export", "-q", "-r", "all"]).assert().success();
    cluster.kvctl(&["wait", "converged"]).assert().success();
    for kind in [Kind::Delay, Kind::Hold, Kind::Cut, Kind::HalfOpen] {
        assert!(cluster.net.met_anywhere(kind) > 0, "no {kind:?} was met; {again}");
    }
    Ok(())
}
