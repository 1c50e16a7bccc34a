//! A byte of an SSTable of a stopped node rots: `kvsstable` names the place, the node starts and serves the rest, and the
//! cluster's reads give the right values, from the other replicas where it must, until those have given back what was lost.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use predicates::prelude::*;
use predicates::str::contains;

use crate::live::{Live, lines, pairs};
use crate::node_fixture::{DevCluster, Result, ended, wait_for};
use crate::sstable_offline::{files, largest};
use crate::tool::{stdout, tool};

/// Inverts the byte in the middle of a file.
fn overwrite_the_middle(file: &Path) -> Result<u64> {
    let offset = std::fs::metadata(file)?.len() / 2;
    let file = OpenOptions::new().read(true).write(true).open(file)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[!byte[0]], offset)?;
    Ok(offset)
}

/// Every key is read, by way of each node.
fn check_all(live: &Live, expected: &BTreeMap<String, String>) {
    let keys = expected.keys().map(String::as_str).collect::<Vec<_>>().join("\0");
    let lines = expected.iter().map(|(key, value)| format!("{key}\t{value}"));
    let expected = lines.collect::<Vec<_>>().join("\n") + "\n";
    for node in &live.cluster.nodes {
        let mut mget = tool("kvctl");
        mget.args(["mget", "-0", "-r", "2", "--plain"]).env("KVCTL_HOSTS", &node.client);
        let read = stdout(&mget.write_stdin(keys.clone()).assert().success());
        assert!(read == expected, "by way of {}: {read}", node.client);
    }
}

#[test]
fn a_rotten_table_costs_no_read_of_the_cluster_and_its_node_goes_on() -> Result<()> {
    let cluster = DevCluster::start_with(3, &[("KVNODE_STORAGE__MEMTABLE", "32KiB")])?;
    let live = Live { cluster };
    live.kvctl(&["wait", "ready"]).assert().success();
    let expected = pairs(0..1_500);
    let import = ["import", "-q", "-w", "all"];
    live.kvctl(&import).write_stdin(lines(&expected)).assert().success();
    let node = &live.cluster.nodes[0];
    node.kill()?;
    let table: PathBuf = largest(&files(&node.data_dir.join("sst"), "sst"))?.clone();
    overwrite_the_middle(&table)?;
    let (name, path) = (table.file_name().unwrap_or_default().to_string_lossy(), table.display());
    tool("kvsstable").arg("verify").arg(&node.data_dir).assert().code(65).stderr(
        contains(format!("{path}: block at byte "))
            .and(contains("; data block "))
            .and(contains(", keys "))
            .and(contains(" to ")),
    );
    let _again = ended(node.run().stderr(Stdio::null()).spawn()?);
    live.kvctl(&["wait", "ready"]).assert().success();
    check_all(&live, &expected);
    // The node has met the place; the damaged file is put away, and the other replicas give back what was lost with it.
    let kept = node.data_dir.join("damaged").join(&*name);
    wait_for("the table to be set aside", || (kept.exists() && !table.exists()).then_some(()));
    check_all(&live, &expected);
    wait_for("what was lost to be given back", || {
        let verified = tool("kvsstable").arg("verify").arg(&node.data_dir).output().ok()?;
        verified.status.success().then_some(())
    });
    live.ok(&["wait", "converged"]);
    check_all(&live, &expected);
    live.kvctl(&["put", "-w", "all", "later", "v"]).assert().success();
    live.kvctl(&["get", "-r", "all", "later"]).assert().success().stdout("v");
    Ok(())
}
