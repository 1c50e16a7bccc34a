//! Snapshots of a whole cluster, and exact imports: what was there comes back, in clusters of other sizes too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::{contains, is_empty};
use serde_json::Value;

use crate::live::{Live, json, lines, pairs};
use crate::node_fixture::{Node, Result, ended, wait_for};
use crate::tool::{stdout, tool};

impl Live {
    /// Each member's part of a snapshot.
    fn parts(&self, name: &str) -> Vec<PathBuf> {
        let of = |node: &Node| node.data_dir.join("snapshots").join(name);
        self.cluster.nodes.iter().map(of).collect()
    }

    /// An export without its header.
    fn records(&self) -> String {
        let text = self.ok(&["export", "-q"]);
        text.split_once('\n').map(|(_, records)| records.to_owned()).unwrap_or_default()
    }

    /// `kvctl snapshot restore` of these parts.
    fn restore(&self, parts: &[PathBuf], more: &[&str]) -> assert_cmd::Command {
        let mut command = self.kvctl(&["snapshot", "restore", "--progress", "none"]);
        command.args(more).args(parts);
        command
    }

    /// What `kvctl snapshot list` says of one.
    fn listed(&self, name: &str) -> Option<Value> {
        let all = self.ok(&["snapshot", "list", "--json"]);
        all.lines().map(json).find(|snapshot| snapshot["name"] == name)
    }

    fn import(&self, text: String) {
        self.kvctl(&["import", "--progress", "none"]).write_stdin(text).assert().success();
    }
}

/// Puts another file in the place of this one, which may have further names.
fn replace(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let mut bytes = fs::read(path)?;
    change(&mut bytes);
    fs::remove_file(path)?;
    fs::write(path, bytes)?;
    Ok(())
}

fn a_table(part: &Path) -> Result<PathBuf> {
    let mut tables: Vec<PathBuf> = fs::read_dir(part.join("sst"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    tables.sort();
    tables.pop().ok_or_else(|| "no table".into())
}

#[test]
fn a_snapshot_made_under_load_is_restored_into_clusters_of_other_sizes() -> Result<()> {
    let live = Live::start()?;
    let before = pairs(0..400);
    live.import(lines(&before));
    for value in ["book", "pen"] {
        live.ok(&["put", "cart", value, "--blind"]);
    }
    let load = live.cluster.dir.path().join("load.ndjson");
    fs::write(&load, lines(&pairs(1_000..9_000)))?;
    let file = load.to_str().ok_or("no text")?;
    let mut import = ended(
        live.kvctl_process(&["import", "-q", file])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?,
    );
    live.kvctl(&["snapshot", "create", "under-load", "--progress", "none"])
        .assert()
        .success()
        .stdout(is_empty())
        .stderr(contains("under-load is complete: 3 parts"));
    live.kvctl(&["snapshot", "verify", "under-load"]).assert().success();
    assert!(import.0.wait()?.success(), "the import beside it failed");

    // Then one while nothing is written, which must be the export to the letter.
    live.ok(&["snapshot", "create", "at-rest", "-q"]);
    let expected = live.records();
    assert_eq!(expected.lines().filter(|line| line.contains(r#""siblings":["#)).count(), 1);
    live.ok(&["put", "cart", "written since"]);
    live.restore(&live.parts("at-rest"), &[]).assert().success();
    assert_eq!(live.ok(&["get", "cart"]), "written since", "what came since stays");

    let two = Live::start_nodes(2)?;
    two.restore(&live.parts("under-load"), &[])
        .assert()
        .success()
        .stderr(contains("restored").and(contains(", 0/s").not()));
    let (_, held) = two.export("all");
    assert!(
        before.iter().all(|(key, value)| held.get(key) == Some(value)),
        "an older write is missing"
    );
    two.ok(&["put", "cart", "of the other cluster"]);
    two.restore(&live.parts("at-rest"), &[]).assert().success();
    let cart = two.ok(&["get", "cart", "--siblings", "all", "--json"]);
    assert!(cart.contains("of the other cluster") && !cart.contains("written since"), "{cart}");

    let four = Live::start_nodes(4)?;
    four.restore(&live.parts("at-rest"), &["--dry-run"]).assert().success();
    assert_eq!(four.ok(&["keys"]), "", "a dry run writes nothing");
    four.restore(&live.parts("at-rest")[1..], &[])
        .assert()
        .success()
        .stderr(contains("without the parts of n1"));
    assert!(four.records() == expected, "an export of the restored cluster is another one");
    four.kvctl(&["wait", "converged"]).assert().success();
    four.restore(&live.parts("at-rest"), &[]).assert().success();
    assert!(four.records() == expected, "restored twice is not restored once");
    Ok(())
}

#[test]
fn parts_that_are_damaged_or_too_few_are_refused_before_anything_is_written() -> Result<()> {
    let live = Live::start()?;
    live.import(lines(&pairs(0..200)));
    live.ok(&["snapshot", "create", "x", "-q"]);
    let parts = live.parts("x");

    live.restore(&parts[..1], &[]).assert().code(66).stderr(contains("too few owners"));
    live.restore(&parts[..1], &["--accept-loss", "-n"]).assert().success();
    live.restore(&[parts[0].clone(), parts[0].clone()], &[]).assert().code(2);
    live.restore(&[PathBuf::from("/nonexistent")], &[]).assert().code(66);
    live.ok(&["snapshot", "create", "y", "-q"]);
    live.restore(&[parts[0].clone(), live.parts("y")[1].clone()], &[])
        .assert()
        .code(65)
        .stderr(contains("different snapshots"));

    let table = a_table(&parts[1])?;
    replace(&table, |bytes| bytes[20] ^= 1)?;
    let name = table.display().to_string();
    live.restore(&parts, &[]).assert().code(65).stderr(contains(&name).and(contains("SHA-1")));
    live.restore(&[parts[0].clone(), parts[2].clone()], &["-n"]).assert().success();
    live.kvctl(&["snapshot", "verify", "x"])
        .assert()
        .code(65)
        .stderr(contains("n2").and(contains(&name)));
    let failed = live.kvctl(&["snapshot", "verify", "x", "--json"]).output()?;
    let error = String::from_utf8(failed.stderr)?;
    let error = error.lines().map(json).find(|line| line["type"] == "error").ok_or("no error")?;
    assert_eq!((&error["node"], &error["files"][0]), (&"n2".into(), &name.clone().into()));

    fs::remove_file(&table)?;
    live.kvctl(&["snapshot", "verify", "x"]).assert().code(65).stderr(contains("gone"));
    replace(&parts[2].join("SNAPSHOT"), |bytes| bytes[30] ^= 1)?;
    live.restore(&parts[2..], &["--accept-loss"]).assert().code(65).stderr(contains("SNAPSHOT"));
    fs::remove_file(parts[2].join("SNAPSHOT"))?;
    live.restore(&parts[2..], &["--accept-loss"]).assert().code(65).stderr(contains("incomplete"));
    Ok(())
}

#[test]
fn a_member_that_is_away_or_dies_leaves_none_or_a_whole_part_and_the_rest_stands() -> Result<()> {
    let live = Live::start()?;
    live.import(lines(&pairs(0..2_000)));
    let node = &live.cluster.nodes[1];
    node.kill()?;
    wait_for("n2 to be missed", || {
        let planned = live.kvctl(&["snapshot", "create", "x", "-n"]).output().ok()?;
        (planned.status.code() == Some(75)).then_some(())
    });
    live.kvctl(&["snapshot", "create", "x"])
        .assert()
        .code(75)
        .stderr(contains("no part of n2; there: n1, n3"));
    let listed = live.listed("x").ok_or("not listed")?;
    assert_eq!(
        (&listed["complete"], &listed["nodes"][1]["state"]),
        (&false.into(), &"unknown".into())
    );
    let _again = ended(node.run().stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    live.kvctl(&["wait", "ready"]).assert().success();
    live.ok(&["snapshot", "create", "x", "-q"]);
    assert_eq!(live.listed("x").ok_or("not listed")?["complete"], true);
    live.ok(&["snapshot", "verify", "x", "-q"]);

    // Killed as soon as anything of its part is there.
    let part = &live.parts("y")[1];
    let mut create = ended(
        live.kvctl_process(&["snapshot", "create", "y", "--timeout", "2s"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?,
    );
    wait_for("a part to be begun", || {
        (part.exists() || part.with_extension("tmp").exists()).then_some(())
    });
    node.kill()?;
    create.0.wait()?;
    let is_whole = part.join("SNAPSHOT").exists();
    let _third = ended(node.run().stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    live.kvctl(&["wait", "ready"]).assert().success();
    let state = live.listed("y").ok_or("not listed")?["nodes"][1]["state"].clone();
    let expected = if is_whole { "whole" } else { "incomplete" };
    assert_eq!(state, expected);
    let again = live.kvctl(&["snapshot", "create", "y", "-q"]).output()?;
    assert_eq!(again.status.code(), Some(if is_whole { 73 } else { 0 }));
    live.ok(&["snapshot", "verify", "y", "-q"]);
    Ok(())
}

#[test]
fn snapshots_are_named_listed_read_offline_and_removed() -> Result<()> {
    let live = Live::start_nodes(1)?;
    live.import(lines(&pairs(0..50)));
    for name in [".x", "a/b", "", "x.tmp", "a b"] {
        live.kvctl(&["snapshot", "create", name]).assert().code(2);
    }
    assert_eq!(live.ok(&["snapshot", "list", "--plain"]), "");
    let planned = live.ok(&["snapshot", "create", "x", "--dry-run"]);
    assert_eq!(
        (planned.as_str(), live.ok(&["snapshot", "list", "--plain"]).as_str()),
        ("n1 would make a part\n", "")
    );
    let made = live.ok(&["snapshot", "create", "x", "--json"]);
    let made: Vec<Value> = made.lines().map(json).collect();
    assert_eq!((&made[0]["node"], &made[0]["keys"]), (&"n1".into(), &50.into()));
    assert_eq!((&made[1]["type"], &made[1]["complete"]), (&"snapshot".into(), &true.into()));
    live.kvctl(&["snapshot", "create", "x"]).assert().code(73).stderr(contains("already"));
    live.kvctl(&["snapshot", "list"])
        .assert()
        .success()
        .stdout(contains("1/1").and(contains("complete")));

    // One key out of it, and all of it, without a node.
    let part = &live.parts("x")[0];
    let path = part.to_str().ok_or("no text")?;
    live.ok(&["put", "key:000007", "another value"]);
    let got = stdout(&tool("kvsstable").args(["get", "key:000007", path]).assert().success());
    assert!(got.contains("value 7 ") && !got.contains("another"), "{got}");
    let dumped = stdout(&tool("kvsstable").args(["dump", path]).assert().success());
    assert_eq!(dumped.lines().filter(|line| line.contains(r#""type":"kv""#)).count(), 50);
    tool("kvsstable").args(["verify", path]).assert().success();
    let other = Live::start_nodes(1)?;
    other.kvctl(&["import", "--exact", "-q"]).write_stdin(dumped).assert().success();
    assert_eq!(other.export("all").1, pairs(0..50));

    live.kvctl(&["snapshot", "remove", "x"]).assert().code(2).stderr(contains("--yes"));
    assert_eq!(live.ok(&["snapshot", "remove", "x", "-n"]), "n1\n");
    assert!(part.exists());
    live.kvctl(&["snapshot", "remove", "x", "--yes"]).assert().success().stdout(is_empty());
    assert!(!part.exists());
    live.kvctl(&["snapshot", "remove", "x", "--yes"]).assert().code(66);
    live.kvctl(&["snapshot", "verify", "x"]).assert().code(66).stderr(contains("no member has"));
    fs::create_dir(part.with_extension("tmp"))?;
    live.kvctl(&["snapshot", "list"]).assert().success().stdout(contains("n1 incomplete"));
    live.kvctl(&["snapshot", "verify", "x"]).assert().code(1).stderr(contains("incomplete"));
    live.kvctl(&["snapshot", "remove", "x", "--yes"]).assert().success();
    assert_eq!(live.ok(&["snapshot", "list", "--plain"]), "");
    Ok(())
}

#[test]
fn an_exact_import_keeps_siblings_deletes_and_causality_in_another_cluster() -> Result<()> {
    // While a member is away no delete is forgotten.
    let live = Live::start()?;
    live.cluster.nodes[2].kill()?;
    live.import(lines(&pairs(0..60)));
    live.ok(&["delete", "key:000003", "key:000004"]);
    live.ok(&["put", "cart", "book"]);
    let context = json(live.ok(&["get", "cart", "--json"]).trim())["ctx"].to_string();
    for value in ["book, pen", "book, ink"] {
        live.ok(&["put", "cart", value, "--context", context.trim_matches('"')]);
    }
    live.kvctl(&["put", "binary", "-"]).write_stdin(b"\x00\x01\xff".to_vec()).assert().success();
    let export = live.ok(&["export", "-q"]);
    let expected = live.records();
    assert_eq!(expected.lines().filter(|line| line.contains(r#""tombstone":true"#)).count(), 2);

    let other = Live::start_nodes(4)?;
    other.cluster.nodes[3].kill()?;
    let file = other.cluster.dir.path().join("export.ndjson");
    let path = file.to_str().ok_or("no text")?;
    // A file that lacks anything is refused before a single record is written.
    let ends = [0, 1, 40, export.len() / 3, export.len() / 2, export.len() - 60, export.len() - 1];
    for end in ends {
        fs::write(&file, &export.as_bytes()[..end])?;
        other.kvctl(&["import", "--exact", path, "--progress", "none"]).assert().code(65);
    }
    assert_eq!(other.ok(&["keys"]), "");
    other
        .kvctl(&["import", "--exact", "-q"])
        .write_stdin(&export.as_bytes()[..export.len() - 1])
        .assert()
        .code(65)
        .stderr(contains("footer"));
    other
        .kvctl(&["import", "--exact"])
        .write_stdin(lines(&pairs(0..3)))
        .assert()
        .code(65)
        .stderr(contains("line 1"));

    fs::write(&file, &export)?;
    other.kvctl(&["import", "--exact", path, "-n"]).assert().success();
    for _ in 0..2 {
        other
            .kvctl(&["import", "--exact", path])
            .assert()
            .success()
            .stdout(is_empty())
            .stderr(contains("imported 62 records"));
        assert_eq!(other.records(), expected, "an export of the other cluster is another one");
    }
    other.kvctl(&["get", "key:000003"]).assert().code(1);
    other.kvctl(&["get", "cart"]).assert().code(3).stderr(contains("2 siblings"));
    // What the other cluster writes stands above it, and stays when the old states come once more.
    other.ok(&["put", "cart", "book, pen, ink"]);
    other.kvctl(&["import", "--exact", "-q", path]).assert().success();
    assert_eq!(other.ok(&["get", "cart"]), "book, pen, ink");
    Ok(())
}

#[test]
fn an_exact_import_goes_on_where_it_was_and_takes_no_other_file_for_it() -> Result<()> {
    let live = Live::start_nodes(1)?;
    live.import(lines(&pairs(0..3_000)));
    let export = live.ok(&["export", "-q"]);
    let other = Live::start_nodes(1)?;
    let (file, note) = (other.cluster.dir.path().join("e"), other.cluster.dir.path().join("note"));
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or("no text");
    let (path, note_path) = (text(&file)?, text(&note)?);
    fs::write(&file, &export)?;
    let arguments = ["import", "--exact", &path, "--resume", &note_path, "-j", "1"];
    let mut first =
        ended(other.kvctl_process(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    wait_for("a note", || note.exists().then_some(()));
    first.0.kill()?;
    first.0.wait()?;
    let noted = json(&fs::read_to_string(&note)?)["lines"].as_u64().ok_or("no lines")?;
    assert!(noted < 3_002, "it was done before it was killed");
    let again = other.kvctl(&arguments).assert().success();
    let told = String::from_utf8_lossy(&again.get_output().stderr).into_owned();
    assert!(!told.contains("imported 3000 records"), "{told}");
    assert!(!note.exists());
    assert!(other.records() == live.records(), "something is missing");
    Ok(())
}
