//! `kvctl` against a live cluster of `kvnode dev`.

use predicates::prelude::*;
use predicates::str::{contains, is_empty, starts_with};
use serde_json::Value;

use crate::live::{Live, json};
use crate::node_fixture::Result;

#[test]
fn bytes_come_back_as_they_went() -> Result<()> {
    let live = Live::start()?;
    let every_byte: Vec<u8> = (0..=255).collect();
    let largest = vec![b'x'; 10_240 - 1];
    for (key, value) in [("a", &every_byte), ("empty", &Vec::new()), ("l", &largest)] {
        live.kvctl(&["put", key])
            .write_stdin(value.clone())
            .assert()
            .success()
            .stdout(is_empty())
            .stderr(is_empty());
        live.kvctl(&["get", key]).assert().success().stdout(value.clone());
    }
    let hex = data_encoding::HEXLOWER.encode(&every_byte);
    live.ok(&["put", "--key-hex", &hex, "binary key"]);
    live.kvctl(&["get", "--key-hex", &hex]).assert().success().stdout("binary key");
    let too_large = vec![b'x'; 11 << 10];
    live.kvctl(&["put", "k", "-"])
        .write_stdin(too_large)
        .assert()
        .code(65)
        .stdout(is_empty())
        .stderr(contains("10240 bytes"));
    live.kvctl(&["get", "k"]).assert().code(1).stdout(is_empty()).stderr(contains("not found"));
    Ok(())
}

#[test]
fn siblings_wait_for_a_choice() -> Result<()> {
    let live = Live::start()?;
    live.ok(&["put", "k", "1"]);
    live.ok(&["put", "k", "2"]);
    live.kvctl(&["get", "k"]).assert().success().stdout("2");
    live.ok(&["put", "s", "a", "--blind"]);
    live.ok(&["put", "s", "b", "--blind"]);
    live.kvctl(&["get", "s"])
        .assert()
        .code(3)
        .stdout(is_empty())
        .stderr(starts_with("kvctl: s has 2 siblings (nothing printed on stdout)\n  1  "));
    let error = live.kvctl(&["get", "s", "--json"]).assert().code(3).stdout(is_empty());
    let error = json(&String::from_utf8_lossy(&error.get_output().stderr));
    assert_eq!((&error["code"], &error["exit"]), (&Value::from("siblings"), &Value::from(3)));
    live.kvctl(&["get", "s", "--siblings", "latest"]).assert().success().stdout("b");
    let context = live.cluster.dir.path().join("context");
    let context = context.to_str().ok_or("a path")?;
    live.ok(&["get", "s", "--siblings", "all", "--context-out", context]);
    let context = format!("@{context}");
    live.ok(&["put", "s", "both", "--context", &context]);
    live.kvctl(&["get", "s"]).assert().success().stdout("both");
    live.kvctl(&["put", "s", "late", "--if-context", &context]).assert().code(3).stdout(is_empty());
    live.kvctl(&["put", "other", "x", "--context", &context])
        .assert()
        .code(65)
        .stderr(contains("another key"));
    live.kvctl(&["get", "s"]).assert().success().stdout("both");
    live.ok(&["delete", "s", "never there"]);
    live.kvctl(&["get", "s"]).assert().code(1).stdout(is_empty());
    Ok(())
}

#[test]
fn replies_tell_programs_what_happened() -> Result<()> {
    let live = Live::start()?;
    let done = json(&live.ok(&["put", "k", "v", "-w", "all", "--json"]));
    assert_eq!(
        (&done["type"], &done["op"], &done["siblings"]),
        (&"done".into(), &"put".into(), &1.into())
    );
    assert_eq!(done["replicas"]["acked"].as_array().map(Vec::len), Some(3));
    let kv = json(&live.ok(&["get", "k", "--json"]));
    for field in ["ctx", "clock", "ts", "replicas", "guarantee"] {
        assert!(!kv[field].is_null(), "{field} in {kv}");
    }
    assert_eq!((&kv["v"], &kv["type"], &kv["value"]), (&1.into(), &"kv".into(), &"v".into()));
    let token = kv["ctx"].as_str().ok_or("a token")?;
    assert_eq!(json(&live.ok(&["context", "decode", token])), kv["clock"]);
    live.kvctl(&["put", "k", "v", "-w", "4"])
        .assert()
        .code(2)
        .stdout(is_empty())
        .stderr(contains("-w 4"));
    live.kvctl(&["put", "k", "dry", "-n"])
        .assert()
        .success()
        .stdout(starts_with("would put k (3 B) at "));
    live.kvctl(&["delete", "k", "--dry-run"])
        .assert()
        .success()
        .stdout(starts_with("would delete k at "));
    live.kvctl(&["get", "k"]).assert().success().stdout("v");
    let status = json(&live.ok(&["status", "--json"]));
    let names: Vec<&str> = status["nodes"]
        .as_array()
        .ok_or("nodes")?
        .iter()
        .filter_map(|node| node["name"].as_str())
        .collect();
    assert_eq!(names, ["n1", "n2", "n3"]);
    live.kvctl(&["inspect", "k"])
        .assert()
        .success()
        .stdout(contains("(1st)").and(contains("newest")));
    live.kvctl(&["inspect", "nothing"]).assert().code(1);
    Ok(())
}

#[test]
fn an_export_imports_to_the_same() -> Result<()> {
    let live = Live::start()?;
    let facts = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/facts.ndjson");
    live.kvctl(&["import", facts])
        .assert()
        .success()
        .stdout(is_empty())
        .stderr(contains("imported 256 records"));
    live.kvctl(&["get", "element:Fe"])
        .assert()
        .success()
        .stdout(r#"{"name":"Iron","number":26,"weight":55.845,"kind":"transition metal"}"#);
    let export = live.ok(&["export", "-q"]);
    let lines: Vec<Value> = export.lines().map(json).collect();
    assert_eq!(lines.len(), 258);
    assert_eq!((&lines[0]["type"], &lines[257]["records"]), (&"header".into(), &256.into()));
    let values = |export: &str| -> Vec<(Value, Value)> {
        let records = export.lines().map(json).filter(|line| line["type"] == "kv");
        records.map(|line| (line["key"].clone(), line["value"].clone())).collect()
    };
    live.kvctl(&["import", "--progress", "none"]).write_stdin(export.clone()).assert().success();
    assert_eq!(values(&live.ok(&["export", "-q", "-r", "all"])), values(&export));
    // A context that others overtook would leave siblings: the cut stream is a fresh one.
    let again = live.ok(&["export", "-q"]);
    let cut: String = again.split_inclusive('\n').take(100).collect();
    live.kvctl(&["import"]).write_stdin(cut).assert().code(65).stderr(contains("footer"));
    let keys = live.ok(&["keys", "element:", "-0"]);
    assert_eq!(keys.split_terminator('\0').count(), 118);
    live.kvctl(&["mget", "-0"])
        .write_stdin(keys)
        .assert()
        .success()
        .stdout(contains("element:Au\t{\"name\":\"Gold\""));
    live.kvctl(&["mget", "element:Au", "nothing"])
        .assert()
        .code(1)
        .stderr(contains("nothing: not found"));
    live.kvctl(&["wait", "converged"]).assert().success();
    Ok(())
}

#[test]
fn bad_records_are_named_and_the_rest_goes_in() -> Result<()> {
    let live = Live::start()?;
    let large = "x".repeat(11 << 10);
    let input = format!(
        "{{\"key\":\"a\",\"value\":{{\"b\": [1, 2.0],\"b\":null}}}}\nnot json\n{{\"key\":7,\"value\":\"seven\"}}\n{{\"key\":\"l\",\"value\":\"{large}\"}}\n{{\"key\":\"a\"}}\n"
    );
    live.kvctl(&["import", "-"])
        .write_stdin(input.clone())
        .assert()
        .code(4)
        .stdout(is_empty())
        .stderr(
            contains("line 2: ")
                .and(contains("line 4: "))
                .and(contains("line 5: "))
                .and(contains("3 failed")),
        );
    live.kvctl(&["get", "a"]).assert().success().stdout(r#"{"b":[1,2.0],"b":null}"#);
    live.kvctl(&["get", "7"]).assert().success().stdout("seven");
    live.kvctl(&["import", "-n"]).write_stdin("{\"key\":\"n\",\"value\":1}\n").assert().success();
    live.kvctl(&["get", "n"]).assert().code(1);
    live.kvctl(&["import", "/nowhere"]).assert().code(66).stderr(contains("/nowhere"));
    Ok(())
}

#[test]
fn a_dead_minority_changes_nothing_and_a_dead_majority_is_told() -> Result<()> {
    let live = Live::start()?;
    live.ok(&["put", "k", "v"]);
    live.cluster.nodes[1].kill()?;
    live.kvctl(&["get", "k"]).assert().success().stdout("v");
    live.ok(&["put", "k", "w"]);
    live.cluster.nodes[2].kill()?;
    let failed = live.kvctl(&["put", "k", "x", "--json"]).assert().code(75).stdout(is_empty());
    let failed = json(&String::from_utf8_lossy(&failed.get_output().stderr));
    assert_eq!(failed["code"], "quorum_unmet", "{failed}");
    assert!(
        ["not_applied", "unknown"].contains(&failed["outcome"].as_str().unwrap_or_default()),
        "{failed}"
    );
    live.ok(&["put", "k", "one", "-w", "one"]);
    live.kvctl(&["get", "k", "-r", "1"]).assert().success().stdout("one");
    Ok(())
}
