//! `kvsstable` on the files of a stopped cluster.

use std::fs;
use std::path::{Path, PathBuf};

use predicates::prelude::*;
use predicates::str::{contains, is_empty};

use crate::node_fixture::{DevCluster, Result};
use crate::tool::{stdout, tool};

/// A cluster that held the facts and was stopped; its first node's directory.
fn stopped() -> Result<(DevCluster, PathBuf)> {
    let cluster = DevCluster::start(3)?;
    let facts = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/facts.ndjson");
    let hosts: Vec<&str> = cluster.nodes.iter().map(|node| node.client.as_str()).collect();
    let kvctl = || {
        let mut command = tool("kvctl");
        command.env("KVCTL_HOSTS", hosts.join(","));
        command
    };
    kvctl().args(["wait", "ready"]).assert().success();
    kvctl().args(["import", "-q", "-w", "all", facts]).assert().success();
    cluster.stop()?;
    let directory = cluster.nodes[0].data_dir.clone();
    Ok((cluster, directory))
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

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
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
    assert_eq!(dump.matches(r#""type":"kv""#).count(), 256);
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
fn tables_tell_of_themselves_and_damage_is_named() -> Result<()> {
    let (_cluster, directory) = stopped()?;
    let output = directory.with_file_name("out");
    let tables = files(&directory, "sst");
    let Some(table) = tables.first() else { return Ok(()) };
    tool("kvsstable").arg("info").arg(table).assert().success().stdout(contains("entries"));
    tool("kvsstable")
        .args(["bloom", "stats"])
        .arg(table)
        .assert()
        .success()
        .stdout(contains("predicted"));
    tool("kvsstable")
        .args(["bloom", "check", "surely not there"])
        .arg(table)
        .assert()
        .code(1)
        .stdout(contains("absent"));
    tool("kvsstable").arg("compact").args(&tables).arg("-o").arg(&output).assert().success();
    let merged = files(&output, "sst");
    let [merged] = merged.as_slice() else { panic!("one table: {merged:?}") };
    tool("kvsstable").arg("verify").arg(merged).assert().success();
    let mut bytes = fs::read(merged)?;
    bytes[10] ^= 1;
    fs::write(merged, &bytes)?;
    tool("kvsstable")
        .arg("verify")
        .arg(merged)
        .assert()
        .code(65)
        .stderr(contains("block at byte 0").and(contains("checksum")));
    tool("kvsstable").arg("dump").arg(merged).assert().code(65).stdout(contains("footer").not());
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
        .arg(directory.path())
        .assert()
        .code(66)
        .stderr(contains("holds no store"));
    Ok(())
}
