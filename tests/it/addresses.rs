//! Nodes move to other addresses: a node is its id, wherever it listens.

use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::faulty_cluster::{FaultyCluster, FaultyNode};
use crate::live::json;
use crate::load::{Entry, Load, judge};
use crate::node_fixture::{Result, ended, expect, free_ports, kvnode, wait_for, write_config};
use crate::tool::stdout;

/// Keys that must be where they were.
const KEYS: u32 = 50;
/// Writes that must go through before and after.
const WRITES: u64 = 200;

impl FaultyCluster {
    /// Three nodes on ports of their own with some keys in them.
    fn with_keys() -> Result<Self> {
        let cluster = Self::start(3)?;
        for number in 0..KEYS {
            cluster.kvctl(&["put", &format!("key{number}"), "value"]).assert().success();
        }
        Ok(cluster)
    }

    #[track_caller]
    fn assert_keys(&self) {
        for number in 0..KEYS {
            let get = ["get", &format!("key{number}"), "--strict", "-r", "3"];
            self.kvctl(&get).assert().success().stdout("value");
        }
    }

    /// Waits until every node sees every other one up and where it listens by its configuration.
    #[track_caller]
    fn wait_found(&self, ids: &[String]) {
        for seen_by in &self.nodes {
            wait_for(&format!("{} to find all where they are", seen_by.name), || {
                let status = seen_by.kvctl(&["status", "--json"]).output().ok()?;
                let status: Value = serde_json::from_slice(&status.stdout).ok()?;
                let is_found = |(node, id): (&FaultyNode, &String)| {
                    let members = status["nodes"].as_array()?;
                    let member = members.iter().find(|member| member["id"] == id.as_str())?;
                    let is_itself = member["client"] == node.client && member["name"] == node.name;
                    Some(is_itself && member["health"] == "up" && member["reachable"] == true)
                };
                self.nodes.iter().zip(ids).all(|pair| is_found(pair) == Some(true)).then_some(())
            });
        }
        self.kvctl(&["wait", "ready"]).assert().success();
    }

    /// The nodes' ids, in order.
    fn ids(&self) -> Vec<String> {
        let status = json(stdout(&self.kvctl(&["status", "--json"]).assert().success()).trim());
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let id_of = |name: &str| {
            let node = nodes.iter().find(|node| node["name"] == name);
            node.and_then(|node| node["id"].as_str()).unwrap_or_default().to_owned()
        };
        self.nodes.iter().map(|node| id_of(&node.name)).collect()
    }

    /// Has one node move while the others are there to hear of it.
    fn move_to(&mut self, node: usize, port: u16, ids: &[String]) -> Result<()> {
        self.stop(node)?;
        self.nodes[node].listen_at(port)?;
        self.nodes[node].restart()?;
        self.wait_found(ids);
        Ok(())
    }

    fn stop(&mut self, node: usize) -> Result<()> {
        self.nodes[node].signal(Signal::SIGTERM)?;
        wait_for("a node to stop", || (!self.nodes[node].runs()).then_some(()));
        Ok(())
    }
}

#[test]
fn a_node_that_comes_back_elsewhere_is_itself() -> Result<()> {
    let mut cluster = FaultyCluster::with_keys()?;
    let ids = cluster.ids();
    // These clients begin with the others, and find the moved node by them.
    let load = Load::start("k", 1, &[Entry::Hosts(cluster.hosts()[..2].to_vec())]);
    load.wait_for_more(WRITES, "before the move");
    cluster.stop(2)?;
    load.wait_for_more(WRITES, "while it is away");
    let held = cluster.kvctl(&["hints", "list", "--json"]).output()?;
    assert!(String::from_utf8_lossy(&held.stdout).contains("\"target\":\"n3\""), "{held:?}");

    cluster.nodes[2].listen_at(free_ports(1)?)?;
    cluster.nodes[2].restart()?;
    cluster.wait_found(&ids);
    cluster.kvctl(&["wait", "handoff"]).assert().success();
    let gets = |name: &str| -> Option<u64> {
        let info = cluster.kvctl(&["status", "--json"]).output().ok()?;
        let status = json(String::from_utf8_lossy(&info.stdout).trim());
        let node = status["nodes"].as_array()?.iter().find(|node| node["name"] == name)?.clone();
        node["counters"]["gets"].as_u64()
    };
    let before = gets("n3").unwrap_or(0);
    wait_for("clients that were there before to go to the moved node", || {
        (gets("n3")? > before).then_some(())
    });
    load.wait_for_more(WRITES, "after the move");

    let (history, failed) = load.stop();
    assert_eq!(failed.len(), 0, "two of three are enough");
    judge(&history, cluster.hosts(), "seed 1")?;
    cluster.kvctl(&["wait", "converged"]).assert().success();
    cluster.assert_keys();
    Ok(())
}

#[test]
fn a_whole_cluster_that_moved_finds_itself_by_its_seeds() -> Result<()> {
    let mut cluster = FaultyCluster::with_keys()?;
    let ids = cluster.ids();
    (0..3).try_for_each(|node| cluster.stop(node))?;
    let port = free_ports(3)?;
    for (node, offset) in cluster.nodes.iter_mut().zip([0, 10, 20]) {
        node.listen_at(port + offset)?;
    }
    // Each is told of one other, and the last of none.
    let seeds = [cluster.nodes[1].peer.clone(), cluster.nodes[2].peer.clone()];
    cluster.nodes[0].configure("node", &format!("seeds = [\"{}\"]", seeds[0]))?;
    cluster.nodes[1].configure("node", &format!("seeds = [\"{}\"]", seeds[1]))?;
    cluster.nodes.iter_mut().try_for_each(FaultyNode::start)?;
    cluster.wait_found(&ids);
    cluster.assert_keys();

    // What was found is on record: the next start needs no seeds.
    (0..3).try_for_each(|node| cluster.stop(node))?;
    for node in &cluster.nodes[..2] {
        node.configure("node", "")?;
    }
    cluster.nodes.iter_mut().try_for_each(FaultyNode::start)?;
    cluster.wait_found(&ids);
    cluster.assert_keys();
    Ok(())
}

#[test]
fn nodes_that_take_each_others_addresses_are_told_apart() -> Result<()> {
    let mut cluster = FaultyCluster::with_keys()?;
    let ids = cluster.ids();
    let port = free_ports(3)?;
    // Off the proxies first: each on a port of its own.
    for (node, offset) in [(0, 0), (1, 10), (2, 20)] {
        cluster.move_to(node, port + offset, &ids)?;
    }

    // Two swap under the eyes of the third.
    cluster.stop(0)?;
    cluster.stop(1)?;
    cluster.nodes[0].listen_at(port + 10)?;
    cluster.nodes[1].listen_at(port)?;
    cluster.nodes[..2].iter_mut().try_for_each(FaultyNode::restart)?;
    cluster.wait_found(&ids);
    cluster.assert_keys();

    // All three go round: nobody is where anybody believes, and nobody has seeds.
    (0..3).try_for_each(|node| cluster.stop(node))?;
    for (node, offset) in [(0, 0), (1, 20), (2, 10)] {
        cluster.nodes[node].listen_at(port + offset)?;
    }
    cluster.nodes.iter_mut().try_for_each(FaultyNode::start)?;
    cluster.wait_found(&ids);
    cluster.assert_keys();
    Ok(())
}

#[test]
fn another_cluster_at_an_old_address_is_left_alone() -> Result<()> {
    let mut cluster = FaultyCluster::start(2)?;
    let ids = cluster.ids();
    cluster.kvctl(&["put", "key", "value", "-w", "all"]).assert().success();
    let port = free_ports(2)?;
    for (node, offset) in [(0, 0), (1, 10)] {
        cluster.move_to(node, port + offset, &ids)?;
    }
    let before = cluster.hosts().join(",");
    // A client that lives on while all of this happens.
    let load = Load::start("k", 1, &[Entry::Hosts(cluster.hosts())]);
    load.wait_for_more(WRITES, "before the move");

    // The second node moves, and a node of another cluster comes to where it was.
    cluster.stop(0)?;
    cluster.stop(1)?;
    let other = write_config(cluster.dir.path(), "other", "")?;
    let text = std::fs::read_to_string(&other)?;
    let listen = text.find("[listen]").ok_or("a configuration that listens")?;
    let (peer, client, http) = (port + 10, port + 11, port + 12);
    let text = format!(
        "{}[listen]\npeer = \"127.0.0.1:{peer}\"\nclient = \"127.0.0.1:{client}\"\nhttp = \"127.0.0.1:{http}\"\n",
        &text[..listen]
    );
    std::fs::write(&other, text)?;
    expect(&kvnode().args(["init", "-c"]).arg(&other).output()?, 0);
    let run = kvnode().args(["run", "-c"]).arg(&other).stderr(Stdio::null()).spawn()?;
    let _other = ended(run);
    let other = |arguments: &[&str]| {
        let mut command = crate::tool::tool("kvctl");
        command.args(arguments).args(["-H", &format!("127.0.0.1:{client}")]);
        command
    };
    wait_for("the other cluster", || {
        other(&["status"]).output().ok()?.status.success().then_some(())
    });

    // The first one knows that address alone, and where the second one will be: it does not give up before that.
    cluster.nodes[1].listen_at(free_ports(1)?)?;
    let seed = cluster.nodes[1].peer.clone();
    cluster.nodes[0].configure("node", &format!("seeds = [\"{seed}\"]"))?;
    cluster.nodes[0].restart()?;
    wait_for("the refusal", || cluster.nodes[0].said("wrong cluster").then_some(()));
    cluster.nodes[1].restart()?;
    cluster.wait_found(&ids);
    load.wait_for_more(WRITES, "after the move");
    let (history, _) = load.stop();
    judge(&history, cluster.hosts(), "seed 1")?;

    // Nothing of all that went to the other cluster.
    assert_eq!(stdout(&other(&["keys"]).assert().success()), "");
    let alone: Value = json(stdout(&other(&["status", "--json"]).assert().success()).trim());
    assert_eq!(alone["nodes"].as_array().map(Vec::len), Some(1));
    assert!(before.contains(&client.to_string()), "it was the address of one of ours");
    Ok(())
}
