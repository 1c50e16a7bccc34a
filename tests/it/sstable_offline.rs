//! `kvsstable` on the files of a stopped cluster.

use std::fs;
use std::path::{Path, PathBuf};

use predicates::prelude::*;
use predicates::str::{contains, is_empty};

use crate::node_fixture::{DevCluster, Result};
use crate::tool::{stdout, tool};

/// Records that `stopped` holds: the facts and three more.
const RECORDS: usize = 256 + 3;

/// A cluster that held the facts, siblings, a tombstone and a binary pair, in SSTables and a log, and was stopped; its
/// first node's directory.
pub(crate) fn stopped() -> Result<(DevCluster, PathBuf)> {
    let cluster = DevCluster::start_with(3, &[("KVNODE_STORAGE__MEMTABLE", "16KiB")])?;
    let facts = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/facts.ndjson");
    let hosts: Vec<&str> = cluster.nodes.iter().map(|node| node.client.as_str()).collect();
    let kvctl = |args: &[&str]| {
        let mut command = tool("kvctl");
        command.env("KVCTL_HOSTS", hosts.join(",")).args(args);
        command
    };
    kvctl(&["wait", "ready"]).assert().success();
    kvctl(&["import", "-q", "-w", "all", facts]).assert().success();
    for value in ["one", "two"] {
        kvctl(&["put", "--blind", "-w", "all", "sib", value]).assert().success();
    }
    kvctl(&["put", "-w", "all", "gone", "x"]).assert().success();
    kvctl(&["delete", "-w", "all", "gone"]).assert().success();
    let binary = ["put", "-w", "all", "--key-hex", "ff00", "-"];
    kvctl(&binary).write_stdin(&b"\x00\xfe"[..]).assert().success();
    cluster.stop()?;
    let directory = cluster.nodes[0].data_dir.clone();
    Ok((cluster, directory))
}

/// The table that holds most: a start that replayed a few records leaves one of a single block.
pub(crate) fn largest(tables: &[PathBuf]) -> Result<&PathBuf> {
    let bytes = |table: &&PathBuf| fs::metadata(table).map_or(0, |metadata| metadata.len());
    tables.iter().max_by_key(bytes).ok_or_else(|| "the cluster flushed nothing".into())
}

/// What a directory holds, file by file.
fn bytes_of(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(bytes_of(&path));
        } else if let Ok(bytes) = fs::read(&path) {
            files.push((path, bytes));
        }
    }
    files.sort();
    files
}

pub(crate) fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let all = bytes_of(directory).into_iter().map(|(path, _)| path);
    all.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

#[test]
fn a_directory_is_dumped_found_in_and_left_alone() -> Result<()> {
    let (_cluster, directory) = stopped()?;
    let before = bytes_of(&directory);
    let dump = stdout(
        &tool("kvsstable").arg("dump").arg(&directory).assert().success().stderr(is_empty()),
    );
    assert_eq!(dump.matches(r#""type":"kv""#).count(), RECORDS);
    for name in ["n1", "n2", "n3"] {
        assert!(dump.contains(&format!(r#""dot":"{name}:"#)), "no write of {name}");
    }
    assert!(dump.contains(r#""key":"element:Au","value":"{\"name\":\"Gold\""#));
    assert!(dump.lines().last().is_some_and(|line| line.contains(r#""type":"footer""#)));
    let keys = stdout(
        &tool("kvsstable")
            .args(["dump", "--keys-only", "--from", "element:", "--to", "element:z"])
            .arg(&directory)
            .assert()
            .success(),
    );
    assert_eq!(keys.lines().count(), 118);
    tool("kvsstable")
        .args(["get", "element:Au"])
        .arg(&directory)
        .assert()
        .success()
        .stdout(contains("Gold"));
    tool("kvsstable").args(["get", "nothing"]).arg(&directory).assert().code(1).stdout(is_empty());
    tool("kvsstable").arg("verify").arg(&directory).assert().success().stdout(contains("sound"));
    for log in files(&directory.join("log"), "log") {
        tool("kvsstable").args(["log", "verify"]).arg(&log).assert().success();
        tool("kvsstable").args(["log", "dump"]).arg(&log).assert().success();
    }
    for manifest in files(&directory, "manifest") {
        tool("kvsstable").args(["manifest", "verify"]).arg(&manifest).assert().success();
        tool("kvsstable")
            .args(["manifest", "dump"])
            .arg(&manifest)
            .assert()
            .success()
            .stdout(contains(r#""type":"edit""#));
    }
    assert!(bytes_of(&directory) == before, "reading changed something");
    Ok(())
}

#[test]
fn tables_tell_of_themselves() -> Result<()> {
    let (_cluster, directory) = stopped()?;
    let tables = files(&directory, "sst");
    let table = largest(&tables)?;
    tool("kvsstable").arg("info").args(&tables).assert().success().stdout(contains("entries"));
    let stats = tool("kvsstable").args(["bloom", "stats", "--json"]).arg(table).assert().success();
    let stats: serde_json::Value = serde_json::from_str(&stdout(&stats))?;
    let rate = |name: &str| stats[name].as_f64().unwrap_or(1.0);
    let (measured, predicted) = (rate("false_positives"), rate("false_positives_predicted"));
    assert!(predicted > 0.0 && (measured - predicted).abs() < predicted, "{stats}");
    tool("kvsstable")
        .args(["bloom", "check", "surely not there"])
        .arg(table)
        .assert()
        .code(1)
        .stdout(contains("absent"));
    let levels = tool("kvsstable").args(["levels", "--json"]).arg(&directory).assert().success();
    let levels: Vec<serde_json::Value> =
        stdout(&levels).lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?;
    let listed = levels.iter().filter_map(|level| level["tables"].as_array()).flatten().count();
    assert_eq!(listed, tables.len());
    tool("kvsstable").arg("levels").arg(&directory).assert().success().stdout(contains("OVERLAP"));
    for of in ["sizes", "ages", "tombstones"] {
        let hist = |form: &str| {
            let mut command = tool("kvsstable");
            command.args(["hist", of, form]).arg(&directory);
            stdout(&command.assert().success())
        };
        let numbers: serde_json::Value = serde_json::from_str(&hist("--json"))?;
        assert_eq!(
            numbers["count"].as_u64(),
            Some(RECORDS as u64 + 1),
            "siblings are two versions"
        );
        assert_eq!(numbers["tombstones"].as_u64(), Some(1));
        assert!(hist("--plot").contains('█'), "{of}");
        assert!(!hist("--plain").is_empty());
    }
    Ok(())
}

#[test]
fn damage_in_a_table_is_named_with_its_block_and_keys_and_the_rest_is_read() -> Result<()> {
    let (_cluster, directory) = stopped()?;
    let output = directory.with_file_name("out");
    let tables = files(&directory, "sst");
    let wrote = tool("kvsstable").arg("compact").args(&tables).arg("-o").arg(&output).assert();
    wrote.success().stderr(contains("wrote"));
    let merged = files(&output, "sst");
    let [merged] = merged.as_slice() else { panic!("one table: {merged:?}") };
    tool("kvsstable").arg("verify").arg(merged).assert().success();
    let whole = stdout(&tool("kvsstable").arg("dump").arg(merged).assert().success());
    let mut bytes = fs::read(merged)?;
    bytes[10] ^= 1;
    fs::write(merged, &bytes)?;
    tool("kvsstable")
        .arg("verify")
        .arg(merged)
        .assert()
        .code(65)
        .stderr(contains("block at byte 0: checksum").and(contains("data block 0, keys ")));
    let errors = tool("kvsstable").args(["verify", "--json"]).arg(merged).assert().code(65);
    let error: serde_json::Value = serde_json::from_slice(&errors.get_output().stderr)?;
    assert_eq!((error["block"].as_u64(), error["offset"].as_u64()), (Some(0), Some(0)), "{error}");
    assert!(error["first"].is_object() && error["last"].is_object(), "{error}");
    let rest = tool("kvsstable").arg("dump").arg(merged).assert().code(65);
    let rest = stdout(&rest.stdout(contains("footer").not()));
    assert!(rest.lines().skip(1).count() > whole.lines().count() / 2);
    assert!(rest.lines().skip(1).all(|line| whole.contains(line)));
    // In the middle of a table of the store itself.
    let table = tables.last().ok_or("the cluster flushed nothing")?;
    let mut bytes = fs::read(table)?;
    let middle = bytes.len() / 4;
    bytes[middle] ^= 0x40;
    fs::write(table, &bytes)?;
    let name = table.file_name().and_then(|name| name.to_str()).ok_or("a name")?;
    tool("kvsstable")
        .arg("verify")
        .arg(&directory)
        .assert()
        .code(65)
        .stderr(contains(name).and(contains("block at byte")).and(contains("keys ")));
    Ok(())
}

#[test]
fn what_is_no_table_is_65_and_a_missing_one_66() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("x.sst");
    fs::write(
        &file,
        "not a table, by any means; but long enough to hold a footer of eighty bytes, and then some more",
    )?;
    tool("kvsstable")
        .arg("info")
        .arg(&file)
        .assert()
        .code(65)
        .stdout(is_empty())
        .stderr(contains("x.sst"));
    tool("kvsstable")
        .args(["info", "/nowhere.sst"])
        .assert()
        .code(66)
        .stdout(is_empty())
        .stderr(contains("/nowhere.sst"));
    tool("kvsstable").args(["log", "verify", "/nowhere.log"]).assert().code(66);
    tool("kvsstable")
        .arg("dump")
        .arg(tempfile::tempdir()?.path())
        .assert()
        .code(66)
        .stderr(contains("holds no store"));
    Ok(())
}
