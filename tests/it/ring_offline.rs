//! `kvring` on a saved layout.

use std::fs;

use predicates::prelude::*;
use predicates::str::{contains, is_empty};

use crate::tool::{stdout, tool};

/// A cluster of three in the form that `kvring export` writes.
const LAYOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/layout-3-nodes.json");

#[test]
fn keys_are_located_as_the_contract_says() {
    tool("kvring")
        .args(["hash", "cart:42", "--plain"])
        .assert()
        .success()
        .stdout("cart:42\t52e1bbf17ff0a195\t21217\n");
    let located = tool("kvring")
        .args(["locate", "cart:42", "--plain", "--layout", LAYOUT])
        .assert()
        .success();
    let text = stdout(&located);
    let fields: Vec<&str> = text.trim_end().split('\t').collect();
    let [key, token, partition, replicas] = fields[..] else { panic!("four fields: {text}") };
    assert_eq!((key, token, partition), ("cart:42", "52e1bbf17ff0a195", "331"));
    let mut replicas: Vec<&str> = replicas.split(',').collect();
    replicas.sort_unstable();
    assert_eq!(replicas, ["n1", "n2", "n3"]);
    tool("kvring")
        .args(["locate", "-", "--json", "--layout", LAYOUT])
        .write_stdin("cart:42\nb\n")
        .assert()
        .success()
        .stdout(contains(r#"{"v":1,"type":"location","key":"cart:42","token":"52e1bbf17ff0a195","slot":21217,"partition":331,"replicas":["#));
}

#[test]
fn a_founded_ring_is_even_and_sound() {
    tool("kvring")
        .args(["show", "--layout", LAYOUT])
        .assert()
        .success()
        .stdout(contains("N=3 R=2 W=2").and(contains("n3")));
    tool("kvring").args(["balance", "--layout", LAYOUT]).assert().success();
    tool("kvring").args(["balance", "--max-skew", "0%", "--layout", LAYOUT]).assert().success();
    tool("kvring")
        .args(["check", "--layout", LAYOUT])
        .assert()
        .success()
        .stdout(contains("1024 partitions"));
}

#[test]
fn an_export_of_a_file_is_the_file() {
    let text = fs::read_to_string(LAYOUT).expect("the layout is there");
    tool("kvring").args(["export", "--layout", LAYOUT]).assert().success().stdout(text.clone());
    tool("kvring")
        .args(["export", "--layout", "-"])
        .write_stdin(text.clone())
        .assert()
        .success()
        .stdout(text);
}

#[test]
fn what_is_no_layout_is_65_and_a_missing_file_66() {
    tool("kvring")
        .args(["show", "--layout", "-"])
        .write_stdin("{}")
        .assert()
        .code(65)
        .stdout(is_empty())
        .stderr(contains("kvring: -: no layout"));
    tool("kvring")
        .args(["show", "--layout", "/nowhere"])
        .assert()
        .code(66)
        .stderr(contains("/nowhere"));
    tool("kvring").args(["locate", "-", "--layout", "-"]).assert().code(2).stdout(is_empty());
}

#[test]
fn the_ring_is_drawn() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ring.svg");
    tool("kvring")
        .args(["plot", "--layout", LAYOUT, "--svg"])
        .arg(&path)
        .assert()
        .success()
        .stdout(is_empty());
    let svg = fs::read_to_string(&path).expect("the drawing is there");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    tool("kvring")
        .args(["plot", "--layout", LAYOUT, "--svg", "/nowhere/ring.svg"])
        .assert()
        .code(73)
        .stderr(contains("cannot write /nowhere/ring.svg"));
    let plain = stdout(&tool("kvring").args(["plot", "--layout", LAYOUT]).assert().success());
    assert!(!plain.contains('\u{1b}') && plain.contains("1024 partitions"), "{plain}");
    let colours = stdout(
        &tool("kvring").args(["plot", "--color", "always", "--layout", LAYOUT]).assert().success(),
    );
    assert!(colours.contains("\u{1b}[38;2;"));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let keys = (0..200_000).map(|number| format!("key-{number}")).collect::<Vec<_>>().join("\n");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("keys");
    fs::write(&path, keys).expect("keys are written");
    let mut child = Command::new(env!("CARGO_BIN_EXE_kvring"))
        .args(["locate", "-", "--layout", LAYOUT])
        .stdin(fs::File::open(&path).expect("keys are there"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kvring starts");
    let mut first = String::new();
    let out = child.stdout.take().expect("a pipe");
    BufReader::new(out).read_line(&mut first).expect("a line");
    assert!(first.starts_with("key-0  token "));
    let output = child.wait_with_output().expect("kvring ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
