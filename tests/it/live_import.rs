//! Imports and exports that something happens to: interruptions, closed pipes, killed nodes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{ChildStdin, Stdio};

use kvkit::version::Actor;
use predicates::prelude::*;
use predicates::str::{contains, is_empty};

use crate::live::{Live, json, lines, pairs};
use crate::node_fixture::{Ended, Node, Result, ended, expect, wait_for};

/// Records of each half of an import.
const HALF: u32 = 1_500;

/// An import that reads from us and notes down how far it came.
fn import(live: &Live, note: &Path) -> Result<(Ended, ChildStdin)> {
    let note = note.to_str().ok_or("a path")?;
    let mut import = live.kvctl_process(&["import", "-", "--resume", note, "--progress", "none"]);
    let mut import = import.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let stdin = import.stdin.take().ok_or("no stdin")?;
    Ok((ended(import), stdin))
}

/// Waits until a note says that lines are in; how many.
#[track_caller]
fn noted(note: &Path) -> u64 {
    wait_for("the import's note", || {
        let note: serde_json::Value = serde_json::from_slice(&std::fs::read(note).ok()?).ok()?;
        note["lines"].as_u64().filter(|lines| *lines > 0)
    })
}

#[test]
fn an_import_that_was_killed_goes_on_where_it_was() -> Result<()> {
    let live = Live::start()?;
    let (note, file) = (live.cluster.dir.path().join("note"), live.cluster.dir.path().join("all"));
    let (first, second) = (pairs(0..HALF), pairs(HALF..2 * HALF));
    // A key of the first half comes once more: the later line wins.
    let again = BTreeMap::from([("key:000007".to_owned(), "the later one".to_owned())]);
    let all = [lines(&first), lines(&second), lines(&again)].concat();
    std::fs::write(&file, &all)?;
    let (mut killed, mut stdin) = import(&live, &note)?;
    stdin.write_all(lines(&first).as_bytes())?;
    let done = noted(&note);
    killed.0.kill()?;
    killed.0.wait()?;
    let (note, file) = (note.to_str().ok_or("a path")?, file.to_str().ok_or("a path")?);
    live.kvctl(&["import", "-", "--resume", note])
        .write_stdin(lines(&second))
        .assert()
        .code(65)
        .stdout(is_empty())
        .stderr(contains("does not begin with the"));
    let resumed = live.kvctl(&["import", file, "--resume", note, "--json"]).assert().success();
    let resumed = json(&String::from_utf8_lossy(&resumed.get_output().stdout));
    let records = resumed["records"].as_u64().ok_or("no records")?;
    assert!(records <= u64::from(2 * HALF) + 1 - done, "{done} lines were in: {resumed}");
    assert!(!Path::new(note).exists(), "the note stayed");
    let expected: BTreeMap<_, _> = first.into_iter().chain(second).chain(again).collect();
    assert!(live.export("quorum").1 == expected, "the cluster holds something else");
    Ok(())
}

#[test]
fn readers_that_leave_early_end_export_and_keys_quietly() -> Result<()> {
    let live = Live::start()?;
    let pairs = pairs(0..3_000);
    live.kvctl(&["import", "-q"]).write_stdin(lines(&pairs)).assert().success().stderr(is_empty());
    for (arguments, first) in [
        (&["export"][..], r#"{"v":1,"type":"header""#),
        (&["keys"], "key:"),
        (&["keys", "--json"], r#"{"v":1,"type":"key""#),
    ] {
        let mut command = live.kvctl_process(arguments);
        let mut reader = ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
        let mut head = String::new();
        // As `head -1` does it: one line, then the pipe is closed.
        BufReader::new(reader.0.stdout.take().ok_or("no stdout")?).read_line(&mut head)?;
        assert!(head.starts_with(first), "{head}");
        let mut told = String::new();
        reader.0.stderr.take().ok_or("no stderr")?.read_to_string(&mut told)?;
        let status = wait_for("kvctl to end", || reader.0.try_wait().ok().flatten());
        assert_eq!((status.code(), told.as_str()), (Some(0), ""), "{arguments:?}");
    }
    Ok(())
}

#[test]
fn a_node_killed_during_an_import_costs_nothing() -> Result<()> {
    let live = Live::start()?;
    let nodes = &live.cluster.nodes;
    let note = live.cluster.dir.path().join("note");
    let (mut import, mut stdin) = import(&live, &note)?;
    let (first, second) = (pairs(0..HALF), pairs(HALF..2 * HALF));
    stdin.write_all(lines(&first).as_bytes())?;
    noted(&note);
    // The rest is on its way while the node dies.
    let writer = std::thread::spawn(move || {
        let text = lines(&second);
        stdin.write_all(text.as_bytes()).map(|()| second)
    });
    nodes[1].kill()?;
    let second = writer.join().map_err(|_| "the writer panicked")??;
    let status = wait_for("the import", || import.0.try_wait().ok().flatten());
    let told = std::io::read_to_string(import.0.stderr.take().ok_or("no stderr")?)?;
    assert_eq!(status.code(), Some(0), "{told}");
    assert!(
        told.starts_with("kvctl: imported 3000 records in ") && !told.contains("failed"),
        "{told}"
    );
    assert_eq!(told.lines().count(), 1, "{told}");
    let expected: BTreeMap<_, _> = first.into_iter().chain(second).collect();
    let (header, held) = live.export("quorum");
    assert!(held == expected, "the two others hold something else");
    // A node that does not answer cannot tell its epoch; the others can.
    let actor = |header: &serde_json::Value, name: &str| -> Option<Actor> {
        header["actors"][name].as_str()?.parse().ok()
    };
    assert_eq!(actor(&header, "n1").map(|actor| actor.epoch.counter), Some(1), "{header}");
    assert!(header["actors"]["n2"].is_string() && actor(&header, "n2").is_none(), "{header}");
    // Back again, under a new epoch, it is given what it missed.
    let again = ended(nodes[1].run().stderr(Stdio::null()).spawn()?);
    live.kvctl(&["wait", "ready"]).assert().success();
    let (header, held) = live.export("all");
    assert!(held == expected, "the three hold something else");
    assert_eq!(actor(&header, "n2").map(|actor| actor.epoch.counter), Some(2), "{header}");
    live.kvctl(&["wait", "converged"]).assert().success();
    expect(&live.cluster.stop()?, 0);
    drop(again);
    Ok(())
}

#[test]
fn all_nodes_killed_right_behind_an_import_lose_nothing() -> Result<()> {
    let live = Live::start()?;
    let pairs = pairs(0..3_000);
    live.kvctl(&["import", "-w", "2"])
        .write_stdin(lines(&pairs))
        .assert()
        .success()
        .stdout(is_empty())
        .stderr(contains("imported 3000 records").and(contains("failed").not()));
    live.cluster.nodes.iter().try_for_each(Node::kill)?;
    expect(&live.cluster.dev().output()?, 0);
    assert!(live.export("quorum").1 == pairs, "something else is there after the restart");
    Ok(())
}
