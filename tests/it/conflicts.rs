//! `kvctl update`, `resolve` and `--require`: conflicts as their users meet and end them.

use std::process::Stdio;

use predicates::prelude::*;
use predicates::str::{contains, is_empty, starts_with};
use serde_json::Value;

use crate::live::{Live, json};
use crate::lone_node::Alone;
use crate::node_fixture::{Result, ended};

/// Writes these beside each other.
fn siblings(live: &Live, key: &str, values: &[&str]) {
    for value in values {
        live.ok(&["put", key, value, "--blind"]);
    }
}

/// The number under which a listing shows a value.
fn number_of(listing: &str, value: &str) -> String {
    let line = listing.lines().find(|line| line.ends_with(value)).expect("the value is listed");
    line.split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn an_update_goes_through_a_program_and_fails_with_it() -> Result<()> {
    let live = Live::start()?;
    // Absent: empty stdin.
    live.kvctl(&["update", "k", "--", "sh", "-c", "cat; printf 1"])
        .assert()
        .success()
        .stdout(is_empty())
        .stderr(is_empty());
    live.kvctl(&["update", "k", "sed", "s/1/a b/"]).assert().success();
    live.kvctl(&["get", "k"]).assert().success().stdout("a b");
    let done = json(&live.ok(&["update", "--json", "-w", "all", "k", "tr", "a", "x"]));
    assert_eq!((&done["op"], &done["siblings"]), (&"update".into(), &1.into()), "{done}");

    for (command, code, told) in [
        (&["false"][..], 1, "false failed (exit status: 1); nothing was written"),
        (&["sh", "-c", "printf y; exit 42"], 1, "exit status: 42"),
        (&["/no/such/program"], 66, "cannot start /no/such/program"),
        (&["yes"], 65, "printed more than the 10239 bytes"),
    ] {
        let arguments = [&["update", "k", "--"], command].concat();
        live.kvctl(&arguments).assert().code(code).stdout(is_empty()).stderr(contains(told));
    }
    live.kvctl(&["update", "k"]).assert().code(2);
    let error = live.kvctl(&["update", "--json", "k", "sh", "-c", "exit 42"]).assert().code(1);
    let error = json(&String::from_utf8_lossy(&error.get_output().stderr));
    assert_eq!((&error["code"], &error["status"]), (&"command_failed".into(), &42.into()));

    live.kvctl(&["update", "-n", "k", "tr", "x", "z"])
        .assert()
        .success()
        .stdout("z b")
        .stderr(starts_with("kvctl: would put k (3 B) at "));
    live.kvctl(&["get", "k"]).assert().success().stdout("x b");
    live.ok(&["delete", "k"]);
    live.ok(&["update", "k", "wc", "-c"]);
    assert_eq!(live.ok(&["get", "k"]).trim(), "0");
    Ok(())
}

/// Whatever succeeded is in the counter, whatever did not is not.
#[test]
fn updates_beside_each_other_lose_nothing() -> Result<()> {
    const WRITERS: usize = 6;
    const EACH: usize = 4;
    let live = Live::start()?;
    let writer = || -> Result<usize> {
        let mut done = 0;
        for _ in 0..EACH {
            let add = ["update", "n", "--", "sh", "-c", "read n; echo $((n + 1))"];
            let output = live.kvctl_process(&add).output()?;
            match output.status.code() {
                Some(0) => done += 1,
                Some(3) => {
                    let told = String::from_utf8_lossy(&output.stderr).into_owned();
                    assert!(told.contains("not updated in 10 attempts"), "{told}");
                }
                code => return Err(format!("{code:?}: {output:?}").into()),
            }
        }
        Ok(done)
    };
    let done: usize = std::thread::scope(|scope| {
        let write = || writer().map_err(|error| error.to_string());
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(write)).collect();
        writers
            .into_iter()
            .map(|writer| writer.join().expect("no panic"))
            .sum::<std::result::Result<_, _>>()
    })?;
    assert!(WRITERS * EACH / 2 < done, "only {done} updates went through");
    assert_eq!(live.ok(&["get", "n", "-r", "all"]).trim(), done.to_string());
    Ok(())
}

#[test]
fn siblings_are_told_with_the_ways_out_and_stay_until_somebody_chooses() -> Result<()> {
    let live = Live::start()?;
    siblings(&live, "s", &[r#"{"items":["book"]}"#, r#"{"items":["pen"],"n":2}"#]);
    live.kvctl(&["get", "s"]).assert().code(3).stdout(is_empty()).stderr(contains(
        "\n  pick: kvctl resolve s --take 2      merge: kvctl resolve s --merge json      \
         see: kvctl get s --siblings all\n",
    ));
    // An update cannot choose.
    live.kvctl(&["update", "s", "cat"])
        .assert()
        .code(3)
        .stdout(is_empty())
        .stderr(starts_with("kvctl: s: not updated in 10 attempts\n  1  ").and(contains("pick: ")));
    live.kvctl(&["resolve", "s", "--merge", "json", "-n"])
        .assert()
        .success()
        .stdout(r#"{"items":["book","pen"],"n":2}"#)
        .stderr(starts_with("kvctl: would put s (30 B) at "));
    live.kvctl(&["get", "s"]).assert().code(3);
    live.kvctl(&["resolve", "s", "--merge", "json"])
        .assert()
        .success()
        .stdout(is_empty())
        .stderr(is_empty());
    live.kvctl(&["get", "s"]).assert().success().stdout(r#"{"items":["book","pen"],"n":2}"#);
    live.kvctl(&["resolve", "s", "--merge", "latest"])
        .assert()
        .success()
        .stdout(is_empty())
        .stderr("kvctl: s has one version: nothing to resolve\n");
    Ok(())
}

#[test]
fn a_choice_is_by_number_or_dot_and_may_be_a_delete() -> Result<()> {
    let live = Live::start()?;
    siblings(&live, "s", &["a", "b"]);
    let listing = live.ok(&["get", "s", "--siblings", "all"]);
    for wrong in ["3", "0", "n9:1"] {
        live.kvctl(&["resolve", "s", "--take", wrong])
            .assert()
            .code(3)
            .stderr(contains(format!("s has no sibling `{wrong}` (any more)\n  1  ")));
    }
    live.ok(&["resolve", "s", "--take", &number_of(&listing, "a")]);
    live.kvctl(&["get", "s"]).assert().success().stdout("a");
    live.kvctl(&["resolve", "s", "--take", "2"]).assert().code(3);

    siblings(&live, "s", &["c"]);
    let all = json(&live.ok(&["get", "s", "--siblings", "all", "--json"]));
    let listed = all["siblings"].as_array().ok_or("siblings")?;
    let dot = listed.iter().find(|one| one["value"] == "c").and_then(|one| one["dot"].as_str());
    live.ok(&["resolve", "s", "--take", dot.ok_or("a dot")?, "--json"]);
    live.kvctl(&["get", "s"]).assert().success().stdout("c");

    // A delete that had seen another version than the one put beside it.
    let context = json(&live.ok(&["get", "s", "--json"]))["ctx"].clone();
    live.ok(&["put", "s", "d", "--context", context.as_str().ok_or("a token")?]);
    siblings(&live, "s", &["e"]);
    let records = format!(r#"{{"key":"s","tombstone":true,"ctx":{context}}}"#);
    live.kvctl(&["import", "-q"]).write_stdin(records + "\n").assert().success();
    let listing = live.ok(&["get", "s", "--siblings", "all"]);
    assert_eq!(listing.lines().count(), 3, "{listing}");
    live.kvctl(&["resolve", "s", "--merge", "union-lines", "-n"]).assert().stdout("d\ne\n");
    live.kvctl(&["resolve", "s", "--merge", "latest", "-n"])
        .assert()
        .success()
        .stdout(is_empty())
        .stderr(starts_with("kvctl: would delete s at "));
    live.ok(&["resolve", "s", "--take", &number_of(&listing, "(deleted)")]);
    live.kvctl(&["get", "s"]).assert().code(1);
    live.kvctl(&["resolve", "s", "--merge", "latest"])
        .assert()
        .code(1)
        .stderr(contains("not found"));
    Ok(())
}

#[test]
fn a_program_gets_the_siblings_as_lines_and_replaces_them_all() -> Result<()> {
    let live = Live::start()?;
    siblings(&live, "s", &["a", "b"]);
    live.kvctl(&["put", "s", "-", "--blind"]).write_stdin(vec![0xff, 0]).assert().success();
    let shown = live.ok(&["resolve", "-n", "-q", "s", "--", "cat"]);
    let lines: Vec<Value> = shown.lines().map(json).collect();
    for (line, number) in lines.iter().zip(1..) {
        assert_eq!((&line["type"], &line["n"]), (&"sibling".into(), &Value::from(number)));
        assert!(line["dot"].is_string() && line["ts"].is_string(), "{line}");
    }
    let values: Vec<&Value> = lines.iter().map(|line| &line["value"]).collect();
    assert_eq!(values, [&Value::from("a"), &"b".into(), &Value::Null]);
    assert_eq!(lines[2]["value_b64"], "_wA");

    live.kvctl(&["resolve", "s", "--", "sh", "-c", "echo x; exit 7"])
        .assert()
        .code(1)
        .stderr(contains("exit status: 7"));
    live.kvctl(&["resolve", "s", "--merge", "json"])
        .assert()
        .code(65)
        .stderr(starts_with("kvctl: s: no merge: sibling 1 is no JSON").and(contains("  1  ")));
    live.kvctl(&["resolve", "s", "--", "yes"]).assert().code(65);
    live.kvctl(&["resolve", "s"]).assert().code(2);
    live.kvctl(&["resolve", "s", "--take", "1", "--merge", "json"]).assert().code(2);
    live.kvctl(&["get", "s"]).assert().code(3);
    live.ok(&["resolve", "s", "--", "wc", "-l"]);
    assert_eq!(live.ok(&["get", "s"]).trim(), "3");
    Ok(())
}

/// What is written while the program runs stays a sibling, and the program runs once more.
#[test]
fn what_comes_in_while_a_program_runs_is_not_lost() -> Result<()> {
    let live = Live::start()?;
    siblings(&live, "s", &["a", "b"]);
    let (begun, go_on) =
        (live.cluster.dir.path().join("begun"), live.cluster.dir.path().join("go"));
    nix::unistd::mkfifo(&begun, nix::sys::stat::Mode::S_IRWXU)?;
    nix::unistd::mkfifo(&go_on, nix::sys::stat::Mode::S_IRWXU)?;
    // The first run waits for the test, the second finds no pipe to wait at.
    let script = format!(
        "if test -p {begun}; then echo > {begun}; cat {go} > /dev/null; rm {begun}; fi; grep -o '\"value\":\"[a-z]*\"' | sort -u",
        begun = begun.display(),
        go = go_on.display()
    );
    let mut resolve = live.kvctl_process(&["resolve", "s", "--", "sh", "-c", &script]);
    let mut resolve = ended(resolve.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    std::fs::read(&begun)?;
    siblings(&live, "s", &["c"]);
    std::fs::write(&go_on, "")?;
    assert_eq!(resolve.0.wait()?.code(), Some(0));
    let value = live.ok(&["get", "s"]);
    // What the first run had made of a and b, and what came in.
    assert!(value.contains("\"value\":\"c\""), "{value}");

    siblings(&live, "t", &["a"]);
    nix::unistd::mkfifo(&begun, nix::sys::stat::Mode::S_IRWXU)?;
    let script = format!(
        "if test -p {begun}; then echo > {begun}; cat {go} > /dev/null; rm {begun}; fi; cat; printf +",
        begun = begun.display(),
        go = go_on.display()
    );
    let mut update = live.kvctl_process(&["update", "t", "--", "sh", "-c", &script]);
    let mut update = ended(update.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    std::fs::read(&begun)?;
    live.ok(&["put", "t", "b"]);
    std::fs::write(&go_on, "")?;
    assert_eq!(update.0.wait()?.code(), Some(0));
    live.kvctl(&["get", "t"]).assert().success().stdout("b+");
    Ok(())
}

#[test]
fn a_promise_that_is_required_and_not_given_is_75() -> Result<()> {
    let live = Live::start()?;
    // R = W = 2 of 3, strictly: R + W > N among owners.
    for arguments in [&["put", "k", "v"][..], &["get", "k"], &["delete", "x"]] {
        for level in ["strict", "overlap"] {
            live.ok(&[arguments, &["--strict", "--require", level]].concat());
        }
    }
    live.kvctl(&["get", "k", "-r", "1", "--require", "overlap"])
        .assert()
        .code(75)
        .stdout(is_empty())
        .stderr("kvctl: the reply promises `eventual`, and `overlap` is required\n");
    live.kvctl(&["mget", "k", "-r", "1", "--require", "strict"])
        .assert()
        .code(4)
        .stdout(is_empty());
    let error = live
        .kvctl(&["put", "k", "weak", "-w", "1", "--require", "overlap", "--json"])
        .assert()
        .code(75);
    let error = json(&String::from_utf8_lossy(&error.get_output().stderr));
    assert_eq!(
        (&error["code"], &error["outcome"], &error["guarantee"], &error["exit"]),
        (&"guarantee_unmet".into(), &"applied".into(), &"eventual".into(), &75.into())
    );
    live.kvctl(&["get", "k"]).assert().success().stdout("weak");
    live.kvctl(&["delete", "k", "-w", "1", "--require", "strict"])
        .assert()
        .code(75)
        .stderr(contains("it was written all the same"));
    live.kvctl(&["get", "k"]).assert().code(1);
    live.kvctl(&["update", "k", "-r", "1", "--require", "strict", "echo"]).assert().code(75);
    live.kvctl(&["get", "k"]).assert().code(1);
    live.kvctl(&["get", "k", "--require", "always"]).assert().code(2);
    Ok(())
}

#[test]
fn an_explanation_names_who_took_part() -> Result<()> {
    let mut node = Alone::founded()?;
    node.start(&[])?;
    node.kvctl(&["put", "k", "v"])?.assert().success();
    let explained = node.kvctl(&["get", "k", "--explain"])?.assert().success().stdout("v");
    let told = String::from_utf8_lossy(&explained.get_output().stderr).into_owned();
    let subjects: Vec<&str> =
        told.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let expected = ["place", "asked", "stand-ins", "stale", "clock", "siblings", "guarantee"];
    assert_eq!(subjects, expected, "{told}");
    assert!(told.contains("n1 coordinated, 1 needed, n1 answered"), "{told}");
    assert!(told.contains("guarantee  strict (N=1 R=1 W=1)"), "{told}");
    Ok(())
}
