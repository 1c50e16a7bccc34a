//! The cluster grows, shrinks and mends itself while it serves.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::faults_kill::seed;
use crate::faulty_cluster::FaultyCluster;
use crate::live::json;
use crate::load::{Entry, Load, assert_failed_only_behind, judge};
use crate::node_fixture::{Result, wait_for};
use crate::tool::stdout;

/// Writes that must go through in each step.
const WRITES: u64 = 300;
/// Keys that are read back.
const KEYS: u32 = 100;

impl FaultyCluster {
    /// What `kvctl cluster show --json` says.
    fn shown(&self) -> Value {
        json(stdout(&self.kvctl(&["cluster", "show", "--json"]).assert().success()).trim())
    }

    /// The layout version in force.
    fn layout(&self) -> String {
        self.shown()["layout"].to_string()
    }

    /// Stages, plans, and commits one change; waits until it is done.
    #[track_caller]
    fn change(&self, staged: &[&str]) {
        self.kvctl(&[&["cluster"], staged].concat()).assert().success();
        self.kvctl(&["cluster", "plan"]).assert().success();
        let layout = self.layout();
        let commit = ["cluster", "commit", "--expect", &layout, "--wait", "--timeout", "60s"];
        self.kvctl(&commit).assert().success();
    }

    /// Waits until nothing of any change is left to do, in a layout of so many members.
    #[track_caller]
    fn wait_done(&self, members: usize) {
        wait_for("the change to be done", || {
            let shown = self.shown();
            let is_done = shown["done"] == true && shown["changing"] == false;
            let count = shown["members"].as_array().map_or(0, Vec::len);
            (is_done && count == members).then_some(())
        });
    }

    /// Each node's share of the keys: what it holds is what it owns.
    fn assert_nothing_left_over(&self) {
        let shown = self.shown();
        for member in shown["members"].as_array().into_iter().flatten() {
            assert_eq!(member["left_over"], 0, "{member}");
        }
    }
}

#[test]
fn a_cluster_grows_and_shrinks_under_load() -> Result<()> {
    let (seed, again) = seed();
    let mut cluster = FaultyCluster::start(3)?;
    let load = Load::start("k", seed, &[Entry::Hosts(cluster.hosts()[1..].to_vec())]);
    load.wait_for_more(WRITES, &format!("before anything; {again}"));
    let mut moments = vec![load.now()];

    for members in [4, 5] {
        cluster.join("join = \"auto\"")?;
        cluster.nodes[members - 1].wait_ready();
        cluster.wait_done(members);
        load.wait_for_more(WRITES, &format!("with {members} nodes; {again}"));
        moments.push(load.now());
    }

    // The first node leaves: there is no special one.
    cluster.change(&["leave", "n1"]);
    wait_for("n1 to end", || (!cluster.nodes[0].runs()).then_some(()));
    let hosts = cluster.hosts()[1..].to_vec();
    cluster.nodes.remove(0);
    cluster.wait_done(4);
    load.wait_for_more(WRITES, &format!("without n1; {again}"));
    moments.push(load.now());

    let (history, failed) = load.stop();
    cluster.kvctl(&["wait", "converged"]).assert().success();
    cluster.assert_nothing_left_over();
    judge(&history, hosts, &again)?;
    assert_failed_only_behind(&moments, failed, &again);
    Ok(())
}

#[test]
fn a_dead_member_is_replaced_and_its_directory_not_let_in_again() -> Result<()> {
    let (seed, again) = seed();
    let mut cluster = FaultyCluster::start(4)?;
    let load = Load::start("k", seed, &[Entry::Hosts(cluster.hosts()[..3].to_vec())]);
    load.wait_for_more(WRITES, &format!("before anything; {again}"));
    let moments = vec![load.now()];
    let refused = cluster.kvctl(&["cluster", "remove", "n4"]).assert().code(2);
    assert!(String::from_utf8_lossy(&refused.get_output().stderr).contains("is not down"));

    cluster.nodes[3].kill()?;
    wait_for("n4 to be down", || {
        let shown = cluster.shown();
        let members = shown["members"].as_array()?;
        members
            .iter()
            .any(|member| member["name"] == "n4" && member["state"] == "DOWN")
            .then_some(())
    });
    cluster.join("join = \"staged\"")?;
    wait_for("n5 to wait", || {
        let shown = cluster.shown();
        shown["waiting"].as_array()?.iter().any(|name| name == "n5").then_some(())
    });
    cluster.change(&["replace", "n4", "n5"]);
    cluster.nodes[4].wait_ready();
    load.wait_for_more(WRITES, &format!("with n5; {again}"));

    let (history, failed) = load.stop();
    let hosts: Vec<String> =
        [0, 1, 2, 4].map(|node: usize| cluster.nodes[node].client.clone()).into();
    judge(&history, hosts, &again)?;
    assert_failed_only_behind(&moments, failed, &again);

    // The removed member's directory is refused, and says how it goes on.
    cluster.nodes[3].start()?;
    wait_for("n4 to end", || (!cluster.nodes[3].runs()).then_some(()));
    assert!(cluster.nodes[3].said("must be wiped before it can join anew"));
    Ok(())
}

#[test]
fn a_joiner_killed_in_the_middle_goes_on_and_a_change_can_be_given_up() -> Result<()> {
    let mut cluster = FaultyCluster::start(3)?;
    for number in 0..KEYS {
        cluster.kvctl(&["put", &format!("key{number}"), "value"]).assert().success();
    }
    cluster.join("join = \"auto\"")?;
    cluster.nodes[3].wait_ready();
    cluster.nodes[3].kill()?;
    // It may have been done by then; else the change waits for it.
    if cluster.shown()["changing"] == true {
        cluster.nodes[3].restart()?;
    } else {
        cluster.nodes[3].start()?;
    }
    cluster.wait_done(4);

    // Another one is killed, and the operator gives the change up.
    cluster.join("join = \"auto\"")?;
    cluster.nodes[4].wait_ready();
    cluster.nodes[4].signal(Signal::SIGSTOP)?;
    if cluster.shown()["changing"] == true {
        cluster.kvctl(&["cluster", "abort"]).assert().success();
        cluster.nodes[4].kill()?;
        cluster.nodes.remove(4);
        cluster.wait_done(4);
    } else {
        cluster.nodes[4].signal(Signal::SIGCONT)?;
        cluster.wait_done(5);
    }
    cluster.kvctl(&["wait", "converged"]).assert().success();
    for number in 0..KEYS {
        cluster
            .kvctl(&["get", &format!("key{number}"), "-r", "2"])
            .assert()
            .success()
            .stdout("value");
    }
    Ok(())
}

#[test]
fn replicas_and_partitions_change_and_mistakes_are_refused() -> Result<()> {
    let cluster = FaultyCluster::start(4)?;
    for number in 0..KEYS {
        cluster.kvctl(&["put", &format!("key{number}"), "value"]).assert().success();
    }
    let fails = |arguments: &[&str], code: i32| {
        cluster.kvctl(arguments).assert().code(code);
    };
    fails(&["cluster", "plan"], 2);
    fails(&["cluster", "leave", "n9"], 2);
    fails(&["cluster", "join", "n9"], 2);
    fails(&["cluster", "set-partitions", "48"], 2);
    fails(&["cluster", "set-quorum", "--replicas", "1"], 2);
    fails(&["cluster", "set-quorum"], 2);
    fails(&["cluster", "commit", "--expect", "7"], 3);
    fails(&["cluster", "weight", "n1", "-5"], 2);

    cluster.change(&["set-quorum", "--replicas", "2", "-r", "1", "-w", "2"]);
    assert_eq!(cluster.owners("key1").len(), 2);
    cluster.change(&["set-quorum", "--replicas", "3", "-r", "2", "-w", "2"]);
    assert_eq!(cluster.owners("key1").len(), 3);
    cluster.change(&["set-partitions", "256"]);
    cluster.change(&["weight", "n2", "2"]);
    cluster.kvctl(&["wait", "converged"]).assert().success();
    cluster.assert_nothing_left_over();
    for number in 0..KEYS {
        let get = ["get", &format!("key{number}"), "--strict", "-r", "3"];
        cluster.kvctl(&get).assert().success().stdout("value");
    }
    Ok(())
}

#[test]
fn a_wait_for_a_change_ends_in_time_and_tells_how_far_it_is() -> Result<()> {
    let mut cluster = FaultyCluster::start(3)?;
    for number in 0..KEYS {
        cluster.kvctl(&["put", &format!("key{number}"), "value"]).assert().success();
    }
    cluster.join("join = \"staged\"")?;
    wait_for("n4 to wait", || {
        let shown = cluster.shown();
        shown["waiting"].as_array()?.iter().any(|name| name == "n4").then_some(())
    });
    cluster.kvctl(&["cluster", "join", "n4"]).assert().success();
    cluster.nodes[3].signal(Signal::SIGSTOP)?;
    let layout = cluster.layout();
    let commit = ["cluster", "commit", "--expect", &layout, "--wait", "--progress", "json"];
    let late = cluster.kvctl(&[&commit[..], &["--timeout", "5s"]].concat()).assert().code(75);
    assert!(stdout(&late).contains("is chosen"), "the change itself is made");
    let said = String::from_utf8_lossy(&late.get_output().stderr).into_owned();
    assert!(said.contains("the change goes on"), "{said}");
    let progress = json(said.lines().next().unwrap_or_default());
    assert_eq!((&progress["type"], &progress["step"]), (&"progress".into(), &"copying".into()));
    for command in [&["status"][..], &["cluster", "show"]] {
        let shown = stdout(&cluster.kvctl(command).assert().success());
        assert!(shown.contains("a change runs: "), "{shown}");
        assert!(shown.contains("end not in sight"), "{shown}");
    }

    cluster.nodes[3].signal(Signal::SIGCONT)?;
    cluster.wait_done(4);
    let shown = cluster.shown();
    assert_eq!((&shown["moving"]["step"], &shown["change"]), (&"rest".into(), &Value::Null));
    let status = json(stdout(&cluster.kvctl(&["status", "--json"]).assert().success()).trim());
    let of_n4 = status["nodes"].as_array().and_then(|nodes| nodes.last()).ok_or("no nodes")?;
    assert!(of_n4["counters"]["gained_keys"].as_u64() > Some(0), "{of_n4}");
    assert_eq!(of_n4["moving"]["gains"], 0, "{of_n4}");
    Ok(())
}
