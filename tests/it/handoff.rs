//! Sloppy quorum and hinted handoff, as users see them.

use serde_json::Value;

use crate::live::{Live, json, lines, pairs};
use crate::node_fixture::{Node, Result, ended, wait_for};

/// A key that node `owner` holds and node `other` does not, by the live ring.
fn key_of(live: &Live, owner: &str, other: &str) -> String {
    let held_by = |key: &String| {
        let located = live.kvring(&["locate", key, "--json"]);
        let replicas = json(&located)["replicas"].to_string();
        let names = |name: &str| replicas.contains(&format!("\"{name}\""));
        names(owner) && !names(other)
    };
    (0..1_000).map(|number| format!("cart:{number}")).find(held_by).expect("many keys, few nodes")
}

fn node<'a>(live: &'a Live, name: &str) -> &'a Node {
    let number: usize =
        name.trim_start_matches('n').parse().expect("a node's name is n and a number");
    &live.cluster.nodes[number - 1]
}

fn hints(live: &Live) -> Vec<Value> {
    live.ok(&["hints", "list", "--json"]).lines().map(json).collect()
}

/// The textbook: four nodes of which one is down, three replicas, all three wanted.
#[test]
fn a_stand_in_takes_the_place_of_an_owner_that_is_down_and_hands_over_when_it_is_back() -> Result<()>
{
    let live = Live::start_nodes(4)?;
    let key = key_of(&live, "n2", "n4");
    live.ok(&["put", &key, "before"]);
    live.ok(&["wait", "converged"]);
    node(&live, "n2").kill()?;

    let reply = wait_for("the cluster to route around a killed node", || {
        let put = live.kvctl(&["put", &key, "after", "-w", "3", "--json"]).output().ok()?;
        put.status.success().then(|| String::from_utf8_lossy(&put.stdout).into_owned())
    });
    let reply = json(reply.trim());
    let stand_in = &reply["replicas"]["stand_ins"][0];
    assert_eq!((&stand_in["owner"], &stand_in["by"]), (&"n2".into(), &"n4".into()), "{reply}");
    assert_eq!(reply["guarantee"], "overlap", "{reply}");
    let held = hints(&live);
    let held = held.iter().find(|hint| hint["holder"] == "n4").expect("n4 holds a hint");
    assert_eq!((&held["target"], &held["target_up"]), (&"n2".into(), &false.into()));
    live.kvctl(&["put", &key, "x", "-w", "3", "--strict"]).assert().code(75);
    assert_eq!(live.ok(&["get", &key, "-r", "3"]), "after");

    let _back = ended(node(&live, "n2").run().spawn()?);
    live.ok(&["wait", "handoff"]);
    live.ok(&["wait", "converged"]);
    let inspected = live.ok(&["inspect", &key, "--json"]);
    assert!(!inspected.contains("before"), "{inspected}");
    assert_eq!(hints(&live), Vec::<Value>::new());
    Ok(())
}

/// With as many nodes as replicas nobody stands in: the others keep what the killed one misses, over their own restart.
#[test]
fn what_a_killed_node_missed_reaches_it_though_the_holders_were_restarted() -> Result<()> {
    let live = Live::start()?;
    let written = pairs(0..400);
    node(&live, "n3").kill()?;
    live.kvctl(&["import", "-q", "-w", "2"]).write_stdin(lines(&written)).assert().success();
    wait_for("hints for n3", || {
        hints(&live).iter().any(|hint| hint["target"] == "n3").then_some(())
    });

    let mut back = Vec::new();
    for name in ["n1", "n2"] {
        node(&live, name).kill()?;
        back.push(ended(node(&live, name).run().spawn()?));
        wait_for("a restarted holder", || {
            let status = live.kvctl(&["status", "--json"]).output().ok()?;
            let nodes = json(String::from_utf8_lossy(&status.stdout).trim());
            let nodes = nodes["nodes"].as_array()?.clone();
            nodes.iter().find(|node| node["name"] == name)?["reachable"].as_bool()?.then_some(())
        });
    }
    let held: u64 = hints(&live).iter().filter_map(|hint| hint["hints"].as_u64()).sum();
    assert!(held >= 400, "{held} hints after the restart");
    back.push(ended(node(&live, "n3").run().spawn()?));
    live.ok(&["wait", "ready"]);
    live.ok(&["wait", "handoff"]);
    live.ok(&["wait", "converged"]);
    let (_, read) = live.export("all");
    assert_eq!(read, written);
    Ok(())
}
