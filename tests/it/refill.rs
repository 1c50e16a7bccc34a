//! Data lost with a disk, given back by the other replicas, as users see it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::live::{Live, json, lines, pairs};
use crate::node_fixture::{Result, ended, output_in_time, wait_for};

/// What is left of a node's disk: who it is.
pub(crate) fn wipe(data_dir: &Path) -> Result<()> {
    for lost in ["log", "sst", "manifest"] {
        std::fs::remove_dir_all(data_dir.join(lost))?;
    }
    Ok(())
}

fn refilling(live: &Live) -> u64 {
    let status = live.ok(&["repair", "status", "--json"]);
    let lines = status.lines().map(json).filter(|line| line["type"] == "refill");
    lines.filter_map(|line| line["slots_left"].as_u64()).sum()
}

#[test]
fn a_node_whose_disk_was_wiped_refills_and_answers_for_itself() -> Result<()> {
    let live = Live::start()?;
    let mut written = pairs(0..1_500);
    live.kvctl(&["import", "-q"]).write_stdin(lines(&written)).assert().success();
    live.ok(&["put", "gone", "x"]);
    live.ok(&["delete", "gone"]);
    live.ok(&["wait", "converged"]);
    let node = &live.cluster.nodes[1];
    node.kill()?;
    wipe(&node.data_dir)?;
    let _back = ended(node.run().spawn()?);
    live.ok(&["wait", "ready"]);
    // It takes writes all the while.
    let more = pairs(1_500..1_600);
    written.extend(more.clone());
    live.kvctl(&["import", "-q"]).write_stdin(lines(&more)).assert().success();
    wait_for("all slots to be sound", || (refilling(&live) == 0).then_some(()));
    live.ok(&["wait", "converged"]);

    // The other two lose all they have: what was refilled is all there is.
    for other in [&live.cluster.nodes[0], &live.cluster.nodes[2]] {
        other.kill()?;
    }
    let mut kvctl = crate::tool::tool("kvctl");
    kvctl.args(["export", "-q", "-r", "1", "-H", &node.client]);
    let exported = crate::tool::stdout(&kvctl.assert().success());
    let read: BTreeMap<String, String> = exported
        .lines()
        .map(json)
        .filter(|line| line["type"] == "kv" && line["tombstone"] != true)
        .map(|line| {
            let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
            (text("key"), text("value"))
        })
        .collect();
    assert_eq!(read, written);
    Ok(())
}

#[test]
fn a_wiped_node_without_seeds_says_what_to_do() -> Result<()> {
    let live = Live::start()?;
    let node = &live.cluster.nodes[0];
    node.kill()?;
    wipe(&node.data_dir)?;
    let config = std::fs::read_to_string(node.config())?;
    let without: Vec<&str> = config.lines().filter(|line| !line.starts_with("seeds")).collect();
    let without = without.join("\n");
    std::fs::write(node.config(), without)?;
    let output = output_in_time(&mut node.run())?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{stderr}");
    assert!(stderr.contains("seeds"), "{stderr}");
    Ok(())
}

#[test]
fn a_loss_is_accepted_only_when_that_is_said() -> Result<()> {
    let live = Live::start()?;
    live.ok(&["put", "k", "v"]);
    live.kvctl(&["repair", "accept-loss", "n1", "all"]).assert().code(2);
    live.kvctl(&["repair", "accept-loss", "n9", "all", "--yes"]).assert().code(2);
    live.kvctl(&["repair", "accept-loss", "n1", "9-3", "--yes"]).assert().code(2);
    live.ok(&["repair", "accept-loss", "n1", "0-63", "--yes"]);
    assert_eq!(live.ok(&["repair", "accept-loss", "n1", "all", "--dry-run"]), "0\n");
    Ok(())
}
