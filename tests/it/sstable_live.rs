//! `kvsstable` beside a running node that writes, flushes and compacts. `KVKIT_DUMPS=1000` takes so many dumps beside
//! imports instead of the few of CI.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Command, Stdio};

use predicates::str::is_empty;
use serde_json::Value;
use serde_json::value::RawValue;
use sha1_smol::Sha1;

use crate::live::json;
use crate::node_fixture::{DevCluster, Result, ended};
use crate::tool::{program, stdout, tool};

/// Records of the import: for each number its own key, then the number under `last`.
const NUMBERS: usize = 1_500;
/// Dumps that must have been taken meanwhile for the test to say anything.
const DUMPS_MIN: usize = 3;
/// Records that are imported over and over.
const PACKAGES: &str = include_str!("../data/packages.ndjson");
/// Dumps taken beside that, in the short form.
const DUMPS: usize = 8;

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

/// The records of one import: each value names its key and the round.
fn round_of(round: usize) -> Result<String> {
    let mut text = String::new();
    for line in PACKAGES.lines() {
        let record: BTreeMap<&str, &RawValue> = serde_json::from_str(line)?;
        let (key, value) = (record["key"], record["value"]);
        writeln!(
            text,
            r#"{{"key":{key},"value":{{"key":{key},"round":{round},"package":{value}}}}}"#
        )?;
    }
    Ok(text)
}

/// The round of each key in a dump, after holding the dump against its own footer and each value against its key.
fn rounds(dump: &str) -> Result<BTreeMap<String, u64>> {
    let (header, records) = dump.split_once('\n').ok_or("no header")?;
    assert_eq!(json(header)["type"], "header", "{header}");
    let end = records.trim_end().rfind('\n').map_or(0, |before| before + 1);
    let (records, footer) = records.split_at(end);
    let footer = json(footer);
    assert_eq!(footer["type"], "footer", "{footer}");
    assert_eq!(footer["records"], records.lines().count(), "{footer}");
    assert_eq!(footer["sha1"], Sha1::from(records).digest().to_string(), "{footer}");
    let mut rounds = BTreeMap::new();
    for record in records.lines().map(json).filter(|record| record["type"] == "kv") {
        let value = json(record["value"].as_str().ok_or("a value")?);
        assert_eq!(value["key"], record["key"], "a value of another key: {record}");
        let key = record["key"].as_str().ok_or("a key")?.to_owned();
        let round = value["round"].as_u64().ok_or("a round")?;
        assert_eq!(rounds.insert(key, round), None, "twice in one dump: {record}");
    }
    Ok(rounds)
}

#[test]
fn dumps_beside_imports_over_and_over_are_whole() -> Result<()> {
    let variables = [("KVNODE_STORAGE__MEMTABLE", "64KiB"), ("KVNODE_STORAGE__SYNC", "never")];
    let cluster = DevCluster::start_with(1, &variables)?;
    let (host, directory) = (&cluster.nodes[0].client, &cluster.nodes[0].data_dir);
    let wanted = std::env::var("KVKIT_DUMPS")
        .map_or(DUMPS, |text| text.parse().expect("KVKIT_DUMPS is a number"));
    let input = cluster.dir.path().join("input.ndjson");
    let keys = PACKAGES.lines().count();
    let (mut dumps, mut round) = (0, 0);
    while dumps < wanted {
        round += 1;
        std::fs::write(&input, round_of(round)?)?;
        let mut import = program("kvctl");
        import.args(["import", "-q", "-H", host]).arg(&input).stdin(Stdio::null());
        let mut import = ended(import.spawn()?);
        loop {
            let is_over = import.0.try_wait()?;
            let dump = tool("kvsstable").arg("dump").arg(directory).assert().success();
            let rounds = rounds(&stdout(&dump.stderr(is_empty())))?;
            dumps += 1;
            // The import before this one was over, so each record is of this round or of the last.
            let (this, last) = (u64::try_from(round)?, u64::try_from(round - 1)?);
            assert!(rounds.values().all(|found| *found == this || *found == last), "{rounds:?}");
            assert!(round == 1 || rounds.len() == keys, "{} of {keys} keys", rounds.len());
            if let Some(status) = is_over {
                assert!(status.success(), "{status}");
                assert!(rounds.len() == keys && rounds.values().all(|found| *found == this));
                break;
            }
        }
    }
    tool("kvsstable").arg("verify").arg(directory).assert().success();
    Ok(())
}
