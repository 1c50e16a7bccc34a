//! `kvsstable` beside a running node that writes, flushes and compacts.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::node_fixture::{DevCluster, Result};
use crate::tool::{stdout, tool};

/// Records of the import: for each number its own key, then the number under `last`.
const NUMBERS: usize = 1_500;
/// Dumps that must have been taken meanwhile for the test to say anything.
const DUMPS_MIN: usize = 3;

/// A dump as numbers: how many of the numbered keys there are, and what `last` says.
fn read(dump: &str) -> Result<(usize, usize)> {
    let (mut numbers, mut last) = (Vec::new(), 0);
    for line in dump.lines() {
        let record: Value = serde_json::from_str(line)?;
        let Some(key) = record["key"].as_str().filter(|_| record["type"] == "kv") else { continue };
        if let Some(number) = key.strip_prefix("number:") {
            numbers.push(number.parse::<usize>()?);
        } else if key == "last" {
            last = record["value"].as_str().ok_or("a value")?.parse()?;
        }
    }
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(1..=numbers.len()), "a number is missing: {numbers:?}");
    Ok((numbers.len(), last))
}

#[test]
fn each_dump_is_a_state_that_the_store_had() -> Result<()> {
    let variables = [("KVNODE_STORAGE__MEMTABLE", "8KiB"), ("KVNODE_STORAGE__SYNC", "never")];
    let cluster = DevCluster::start_with(1, &variables)?;
    let (host, directory) = (&cluster.nodes[0].client, &cluster.nodes[0].data_dir);
    let input = cluster.dir.path().join("input.ndjson");
    let mut records = String::new();
    for number in 1..=NUMBERS {
        let text = "x".repeat(number % 200);
        writeln!(records, "{{\"key\":\"number:{number}\",\"value\":\"{text}\"}}")?;
        writeln!(records, "{{\"key\":\"last\",\"value\":{number}}}")?;
    }
    std::fs::write(&input, records)?;
    // One at a time: each record is acknowledged before the next one is sent.
    let mut import = Command::new(env!("CARGO_BIN_EXE_kvctl"))
        .args(["import", "-q", "--jobs", "1", "-H", host])
        .arg(&input)
        .stdin(Stdio::null())
        .spawn()?;
    let mut dumps = Vec::new();
    while import.try_wait()?.is_none() {
        let got = tool("kvctl").args(["get", "last", "-H", host]).output()?;
        let acknowledged: usize = String::from_utf8(got.stdout)?.parse().unwrap_or(0);
        let dump = stdout(&tool("kvsstable").arg("dump").arg(directory).assert().success());
        let (numbers, last) = read(&dump)?;
        // `last` is written behind the number's own key.
        assert!(last == numbers || last + 1 == numbers, "{last} is the last of {numbers}");
        assert!(acknowledged <= last, "{acknowledged} was acknowledged, {last} dumped");
        tool("kvsstable").arg("verify").arg(directory).assert().success();
        dumps.push(numbers);
    }
    assert!(import.wait()?.success());
    assert!(dumps.len() >= DUMPS_MIN, "{dumps:?}");
    let dump = stdout(&tool("kvsstable").arg("dump").arg(directory).assert().success());
    assert_eq!(read(&dump)?, (NUMBERS, NUMBERS));
    let levels = tool("kvsstable").args(["levels", "--json"]).arg(directory).assert().success();
    assert!(stdout(&levels).contains("\"level\":1"), "it never compacted");
    Ok(())
}
