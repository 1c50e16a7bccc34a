//! The loss of a majority of the members for good, as an operator gets out of it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::faulty_cluster::FaultyCluster;
use crate::live::{json, lines, pairs};
use crate::node_fixture::{Result, expect, kvnode, output_in_time, wait_for};
use crate::tool::{stdout, tool};

/// The places of the members that are lost.
const LOST: [usize; 3] = [0, 1, 2];
/// The names of those that are left.
const LEFT: [&str; 2] = ["n4", "n5"];

/// Five nodes with some keys, all of which every owner holds.
struct Loaded {
    cluster: FaultyCluster,
    written: BTreeMap<String, String>,
    /// How many owners of each key are left.
    left: BTreeMap<String, usize>,
}

fn loaded() -> Result<Loaded> {
    let cluster = FaultyCluster::start(5)?;
    let written = pairs(0..400);
    cluster.kvctl(&["import", "-q"]).write_stdin(lines(&written)).assert().success();
    cluster.kvctl(&["wait", "converged"]).assert().success();
    let mut kvring = tool("kvring");
    kvring.args(["locate", "-", "--json"]).env("KVCTL_HOSTS", cluster.hosts().join(","));
    let keys: Vec<&str> = written.keys().map(String::as_str).collect();
    let located = stdout(&kvring.write_stdin(keys.join("\n")).assert().success());
    let owners_left = |line: &Value| {
        let owners = line["replicas"].as_array().into_iter().flatten();
        owners.filter(|owner| owner.as_str().is_some_and(|owner| LEFT.contains(&owner))).count()
    };
    let located = located.lines().map(json);
    let left =
        located.filter_map(|line| Some((line["key"].as_str()?.to_owned(), owners_left(&line))));
    let left = left.collect();
    Ok(Loaded { cluster, written, left })
}

impl FaultyCluster {
    /// `kvctl` that knows those that are left.
    fn left(&self, arguments: &[&str]) -> assert_cmd::Command {
        let mut command = tool("kvctl");
        let hosts: Vec<&str> = self.nodes[3..].iter().map(|node| node.client.as_str()).collect();
        command.args(arguments).env("KVCTL_HOSTS", hosts.join(","));
        command
    }

    /// What `kvctl cluster show --json` says there, once it does.
    fn left_show(&self) -> Option<Value> {
        let output = self.left(&["cluster", "show", "--json"]).output().ok()?;
        output.status.success().then(|| json(String::from_utf8_lossy(&output.stdout).trim()))
    }

    fn lose(&mut self) -> Result<()> {
        LOST.into_iter().try_for_each(|node| self.nodes[node].kill())
    }

    /// Asserts that `arguments` fail with this code and say this.
    #[track_caller]
    fn refuses(&self, arguments: &[&str], code: i32, text: &str) {
        let assert = self.left(arguments).assert().code(code);
        let stderr = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        assert!(stderr.contains(text), "{stderr}");
    }

    /// All that every member that is left says it holds.
    fn read_all(&self) -> BTreeMap<String, String> {
        let exported = stdout(&self.left(&["export", "-q", "-r", "all"]).assert().success());
        let records = exported.lines().map(json).filter(|line| line["type"] == "kv");
        let text = |line: &Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
        records.map(|line| (text(&line, "key"), text(&line, "value"))).collect()
    }

    /// Recovers with those that are left, and checks that all that survived is there and that the cluster serves.
    fn recover(
        &self,
        written: &BTreeMap<String, String>,
        left: &BTreeMap<String, usize>,
    ) -> Result<()> {
        let recover = [&["cluster", "recover", "--accept-loss"], &LEFT[..]].concat();
        let done = [&recover[..], &["--yes", "--wait", "--json", "--timeout", "60s"]].concat();
        let told = json(stdout(&self.left(&done).assert().success()).trim());
        assert_eq!((&told["generation"], &told["resumed"]), (&2.into(), &false.into()), "{told}");
        assert_eq!(told["left_behind"].as_array().map(Vec::len), Some(LOST.len()), "{told}");

        // Which keys the lost alone owned follows from random ids; it may be none.
        let survived: BTreeMap<String, String> =
            written.clone().into_iter().filter(|(key, _)| 0 < left[key]).collect();
        assert!(written.len() / 2 < survived.len(), "{} survived", survived.len());
        assert_eq!(self.read_all(), survived);
        for node in &self.nodes[3..] {
            let (key, value) = survived.first_key_value().ok_or("nothing survived")?;
            node.kvctl(&["get", key, "--strict"]).assert().success().stdout(value.clone());
        }
        self.left(&["put", "new", "v", "-w", "2", "--strict"]).assert().success();
        self.left(&["get", "new", "-r", "2", "--strict"]).assert().success().stdout("v");
        Ok(())
    }
}

#[test]
fn two_of_five_go_on_with_all_that_they_hold() -> Result<()> {
    let Loaded { mut cluster, written, left } = loaded()?;
    cluster.lose()?;
    wait_for("the lost to be down", || {
        let shown = cluster.left_show()?;
        let down = shown["members"].as_array()?.iter().filter(|member| member["state"] == "DOWN");
        (down.count() == LOST.len()).then_some(())
    });

    // The layout stands still, and the ways out that are none say why.
    cluster.left(&["cluster", "set-quorum", "--mode", "consistent"]).assert().success();
    cluster.refuses(&["cluster", "commit", "--expect", "1", "--timeout", "2s"], 75, "no majority");
    let recover = ["cluster", "recover", "--accept-loss"];
    let with = |names: &[&'static str]| [&recover[..], names].concat();
    cluster.refuses(&with(&["n4", "n5"]), 2, "--yes");
    cluster.refuses(&with(&["n4", "--yes"]), 75, "n5 would be left behind");
    cluster.refuses(&with(&["n4", "n9", "--yes"]), 2, "no member is named `n9`");
    cluster.refuses(
        &with(&["n1", "n4", "n5", "--yes", "--timeout", "2s"]),
        75,
        "n1 does not answer",
    );
    cluster.refuses(&recover[..2], 2, "--accept-loss");

    let dry = cluster.left(&with(&["n4", "n5", "--dry-run", "--json"])).assert().success();
    let told = json(stdout(&dry).trim());
    assert_eq!((&told["dry_run"], &told["partitions"]), (&true.into(), &64.into()), "{told}");
    // Who owns what follows from random ids: whether a partition was owned by the lost alone is not said.
    assert!(told["without_owner"].is_u64() && told["with_too_few"].as_u64() > Some(0), "{told}");
    let plain = stdout(&cluster.left(&with(&["n4", "n5", "--dry-run"])).assert().success());
    assert!(
        plain.contains("left behind n1, n2, n3") && plain.contains("no owner survives"),
        "{plain}"
    );
    let (unserved, _) = left.iter().find(|(_, left)| **left < 2).ok_or("all have a quorum")?;
    cluster.refuses(&["get", unserved, "--strict"], 75, "");

    cluster.recover(&written, &left)?;
    cluster.refuses(&with(&["n4", "n5", "--yes"]), 2, "no member is lost");

    // Whom the recovery left behind learns that, and what to do, however it comes back.
    let mut run = kvnode();
    let output = output_in_time(run.args(["run", "-c"]).arg(&cluster.nodes[0].config))?;
    let (_, stderr) = expect(&output, 77);
    assert!(stderr.contains("left behind") && stderr.contains("must be wiped"), "{stderr}");

    // The layout can be changed again, and who was wiped comes in as a new member.
    std::fs::remove_dir_all(&cluster.nodes[2].data_dir)?;
    cluster.nodes.drain(..LOST.len());
    cluster.join("join = \"auto\"")?;
    cluster.nodes.last_mut().ok_or("a joiner")?.wait_ready();
    wait_for("three members", || {
        let shown = json(stdout(&cluster.kvctl(&["cluster", "show", "--json"]).assert()).trim());
        let is_done = shown["done"] == true && shown["members"].as_array()?.len() == 3;
        is_done.then_some(())
    });
    cluster.kvctl(&["get", "new", "-r", "3", "--strict"]).assert().success().stdout("v");
    Ok(())
}

/// All lose power, and three never come back: those that are left have confirmed their starts with nobody.
#[test]
fn survivors_that_started_anew_recover_too() -> Result<()> {
    let Loaded { mut cluster, written, left } = loaded()?;
    cluster.nodes.iter_mut().try_for_each(crate::faulty_cluster::FaultyNode::kill)?;
    for node in &mut cluster.nodes[3..] {
        node.start()?;
    }
    wait_for("both to hear each other", || {
        let shown = cluster.left_show()?;
        let up = shown["members"].as_array()?.iter().filter(|member| member["state"] == "up");
        (up.count() == LEFT.len()).then_some(())
    });
    cluster.recover(&written, &left)
}
