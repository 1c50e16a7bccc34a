//! Disks that hold less than their node once told others: found out at the start, set aside, and refilled.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::live::{Live, json, lines, pairs};
use crate::node_fixture::{Ended, Node, Result, ended, wait_for};
use crate::sstable_offline::files;
use crate::tool::{stdout, tool};

/// What a store is made of.
const PARTS: [&str; 3] = ["log", "sst", "manifest"];
/// Of a note about how far another member was seen: its name's beginning, and where in its value the start stands.
const SEEN: &[u8] = b"seen/";
const SEEN_START: std::ops::Range<usize> = 1..9;

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for part in PARTS {
        std::fs::create_dir_all(to.join(part))?;
        for entry in std::fs::read_dir(from.join(part))? {
            let entry = entry?;
            std::fs::copy(entry.path(), to.join(part).join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn remove_files(dir: &Path) -> Result<()> {
    Ok(PARTS.iter().try_for_each(|part| std::fs::remove_dir_all(dir.join(part)))?)
}

/// The latest start of any other member that this node has on record.
fn latest_start_seen(node: &Node) -> Option<u64> {
    let mut dump = tool("kvsstable");
    let dumped = stdout(&dump.arg("dump").arg(&node.data_dir).assert());
    let notes = dumped.lines().map(json).filter(|line| line["type"] == "meta");
    let bytes = |line: &serde_json::Value, field: &str| {
        let text = line[field].as_str()?;
        data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).ok()
    };
    let starts = notes.filter_map(|line| {
        let plain = line["key"].as_str().map(|name| name.as_bytes().to_vec());
        let name = plain.or_else(|| bytes(&line, "key_b64"))?;
        let value = bytes(&line, "value_b64").filter(|_| name.starts_with(SEEN))?;
        Some(u64::from_le_bytes(value.get(SEEN_START)?.try_into().ok()?))
    });
    starts.max()
}

/// Runs the node until it has set its disk aside. While others hold its last life for alive they refuse it as a copy:
/// then it is started again, as a supervisor does.
fn run_until_set_aside(node: &Node) -> Result<Ended> {
    let spawn = || -> Result<Child> { Ok(node.run().spawn()?) };
    let mut child = ended(spawn()?);
    let place = node.data_dir.join("damaged/lost-1/manifest");
    wait_for("the disk to be set aside", || {
        if matches!(child.0.try_wait(), Ok(Some(_)))
            && let Ok(next) = spawn()
        {
            child = ended(next);
        }
        place.exists().then_some(())
    });
    Ok(child)
}

/// Whether no member says that it is getting anything back.
fn is_refilled(live: &Live) -> bool {
    let status = live.ok(&["repair", "status", "--json"]);
    !status.lines().map(json).any(|line| line["type"] == "refill" && line["slots_left"] != 0)
}

/// All that this node alone says it holds.
fn held(node: &Node) -> BTreeMap<String, String> {
    let mut kvctl = tool("kvctl");
    kvctl.args(["export", "-q", "-r", "1", "-H", &node.client]);
    let exported = stdout(&kvctl.assert().success());
    let records = exported.lines().map(json);
    let values = records.filter(|line| line["type"] == "kv" && line["tombstone"] != true);
    let text =
        |line: &serde_json::Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
    values.map(|line| (text(&line, "key"), text(&line, "value"))).collect()
}

/// The node got all back, and answers for itself.
fn check_back(live: &Live, node: usize, expected: &BTreeMap<String, String>) -> Result<()> {
    live.ok(&["wait", "ready"]);
    wait_for("all slots to be sound", || is_refilled(live).then_some(()));
    live.ok(&["wait", "converged"]);
    for (number, other) in live.cluster.nodes.iter().enumerate() {
        if number != node {
            other.kill()?;
        }
    }
    assert_eq!(held(&live.cluster.nodes[node]), *expected);
    Ok(())
}

#[test]
fn a_directory_put_back_from_a_copy_is_set_aside_and_refilled() -> Result<()> {
    let live = Live::start()?;
    let mut written = pairs(0..500);
    live.kvctl(&["import", "-q"]).write_stdin(lines(&written)).assert().success();
    live.ok(&["put", "gone", "x"]);
    let node = &live.cluster.nodes[1];
    let pid = Pid::from_raw(node.pid()?);
    kill(pid, Signal::SIGTERM)?;
    wait_for("the node to end", || kill(pid, None).is_err().then_some(()));
    let copy = live.cluster.dir.path().join("copy");
    copy_files(&node.data_dir, &copy)?;

    let mut again = ended(node.run().spawn()?);
    live.ok(&["wait", "ready"]);
    live.ok(&["delete", "gone"]);
    let more = pairs(500..700);
    written.extend(more.clone());
    live.kvctl(&["import", "-q"]).write_stdin(lines(&more)).assert().success();
    for other in [&live.cluster.nodes[0], &live.cluster.nodes[2]] {
        wait_for("the others to have seen its second start", || {
            (latest_start_seen(other)? >= 2).then_some(())
        });
    }
    again.0.kill()?;
    again.0.wait()?;

    remove_files(&node.data_dir)?;
    copy_files(&copy, &node.data_dir)?;
    // It finds the others by what the old disk knows.
    let config = std::fs::read_to_string(node.config())?;
    let without: Vec<&str> = config.lines().filter(|line| !line.starts_with("seeds")).collect();
    std::fs::write(node.config(), without.join("\n"))?;
    let _back = run_until_set_aside(node)?;
    check_back(&live, 1, &written)
}

#[test]
fn a_salvaged_log_makes_a_node_begin_again() -> Result<()> {
    let live = Live::start()?;
    let written = pairs(0..300);
    live.kvctl(&["import", "-q"]).write_stdin(lines(&written)).assert().success();
    live.ok(&["wait", "converged"]);
    let node = &live.cluster.nodes[2];
    node.kill()?;
    let logs = files(&node.data_dir.join("log"), "log");
    let log = logs.last().ok_or("a log")?;
    let saved = live.cluster.dir.path().join("saved");
    tool("kvsstable").arg("salvage").arg(log).arg("-o").arg(&saved).assert().success();
    let [salvaged] = files(&saved, "log").try_into().map_err(|_| "one log")?;
    std::fs::rename(salvaged, log)?;
    let _back = run_until_set_aside(node)?;
    check_back(&live, 2, &written)
}
