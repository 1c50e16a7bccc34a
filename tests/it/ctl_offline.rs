//! `kvctl` where no cluster is needed, or none is there.

use predicates::prelude::*;
use predicates::str::{contains, is_empty, starts_with};

use crate::tool::{stdout, tool};

/// An address that nobody listens on: port 1 wants privileges that tests do not use.
const NOBODY: &str = "127.0.0.1:1";

#[test]
fn help_and_version_go_to_stdout() {
    for program in ["kvctl", "kvring", "kvsstable", "kvnode"] {
        let help = tool(program).arg("--help").assert().success().stderr(is_empty());
        let text = stdout(&help);
        for expected in ["Examples:", "Exit codes:", "  75  try again", "--color"] {
            assert!(text.contains(expected), "{program}: {expected} in\n{text}");
        }
        let short = stdout(&tool(program).arg("-h").assert().success());
        assert!(short.contains("Examples:") && short.len() < text.len());
        let version = format!("{program} {} (revision ", env!("CARGO_PKG_VERSION"));
        tool(program)
            .arg("-V")
            .assert()
            .success()
            .stdout(starts_with(version).and(contains(", wire 1, SSTable 1)")));
    }
}

#[test]
fn a_wrong_command_line_is_2_and_says_why() {
    for arguments in [
        &["frobnicate"][..],
        &["get"],
        &["get", "k", "--frobnicate"],
        &["put", "k", "v", "-w", "0"],
        &["put", "k", "v", "--blind", "--context", "c1.x"],
        &["get", "--key-hex", "zz", "-H", NOBODY, "--siblings", "some"],
        &["import", "--jobs", "0"],
        &["wait", "godot"],
    ] {
        tool("kvctl")
            .args(arguments)
            .assert()
            .code(2)
            .stdout(is_empty())
            .stderr(contains("error: ").and(contains("--help")));
    }
    tool("kvctl").args(["get", "--json"]).assert().code(2).stdout(is_empty()).stderr(
        starts_with(r#"{"v":1,"type":"error","code":"usage","message":""#)
            .and(contains(r#""exit":2}"#)),
    );
}

#[test]
fn no_node_is_69() {
    tool("kvctl")
        .args(["get", "k", "-H", NOBODY])
        .assert()
        .code(69)
        .stdout(is_empty())
        .stderr(starts_with("kvctl: no node reachable").and(contains(NOBODY)));
    tool("kvctl")
        .args(["status", "--json"])
        .env("KVCTL_HOSTS", NOBODY)
        .assert()
        .code(69)
        .stdout(is_empty())
        .stderr(contains(r#""code":"no_node""#).and(contains(r#""exit":69}"#)));
    tool("kvctl")
        .args(["wait", "ready", "--timeout", "300ms", "-H", NOBODY])
        .assert()
        .code(69)
        .stderr(contains("no node reachable"));
    tool("kvring").args(["show", "-H", NOBODY]).assert().code(69).stdout(is_empty());
}

#[test]
fn a_token_that_is_none_is_65() {
    for token in ["", "c1.", "c1.AAAA", "c2.AAAA", "hello"] {
        tool("kvctl")
            .args(["context", "decode", token])
            .assert()
            .code(65)
            .stdout(is_empty())
            .stderr(starts_with("kvctl: ").and(contains("context token")));
    }
    tool("kvctl")
        .args(["context", "decode", "@/nowhere/at/all"])
        .assert()
        .code(66)
        .stderr(contains("/nowhere/at/all"));
}

#[test]
fn texts_are_generated_for_every_shell() {
    for program in ["kvctl", "kvring", "kvsstable"] {
        for shell in ["bash", "zsh", "fish"] {
            let text = stdout(&tool(program).args(["--generate", shell]).assert().success());
            assert!(text.contains(program) && text.len() > 1_000, "{program} {shell}");
        }
    }
}
