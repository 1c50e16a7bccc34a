//! Imports point down: holds the `crate::…` paths of `src/**` against the layers of DESIGN §2 and `src/lib.rs`, and
//! keeps sockets, threads, clocks and the runtime above the rim.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Each layer and the layers it may import, leaves apart, which all may.
const LAYERS: &[(&str, &[&str])] = &[
    ("node_id", &[]),
    ("encoding", &[]),
    ("planted", &[]),
    ("ring", &[]),
    ("version", &[]),
    ("cluster", &["ring"]),
    ("replication", &["cluster", "ring", "version"]),
    ("storage", &[]),
    ("wire", &["replication", "cluster", "ring", "version"]),
    ("node", &["wire", "replication", "storage", "cluster", "ring", "version"]),
    // The client names replication's levels and guarantees, which the wire's messages carry.
    ("client", &["wire", "replication", "ring", "version"]),
    ("runtime", &["node", "wire", "replication", "storage", "cluster", "ring", "version"]),
    (
        "cli",
        &[
            "runtime",
            "client",
            "node",
            "wire",
            "replication",
            "storage",
            "cluster",
            "ring",
            "version",
        ],
    ),
];
const LEAVES: [&str; 3] = ["node_id", "encoding", "planted"];
/// The layers that know tokio, sockets, threads and clocks.
const RIM: [&str; 3] = ["runtime", "client", "cli"];
/// What stays above the rim.
const RIM_PATHS: [&str; 9] = [
    "tokio::",
    "std::net",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime::now",
    "OsRng",
    "rand::random",
];
/// The bridge between frames and tokio: codecs without sockets. The wire may name it.
const CODEC_PATHS: [&str; 2] = ["tokio_util::", "tokio_serde::"];

#[test]
fn imports_point_down() {
    let faults = faults(&sources().expect("the sources can be read"));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_module_has_a_layer() {
    let sources = sources().expect("the sources can be read");
    for path in sources.keys() {
        let layer = layer_of(path);
        let known = LAYERS.iter().any(|(name, _)| *name == layer);
        assert!(known || layer == "lib" || layer == "bin", "{path}: no layer is named `{layer}`");
    }
}

#[test]
fn a_planted_violation_is_found() {
    let planted = [
        ("ring/token.rs", "use crate::version::Dot;", "ring/token.rs:1: ring imports version"),
        (
            "storage/store.rs",
            "let _ = crate::ring::SLOTS;",
            "storage/store.rs:1: storage imports ring",
        ),
        (
            "wire/peer.rs",
            "\n    use super::super::node::Core;",
            "wire/peer.rs:2: wire imports node",
        ),
        (
            "cluster/time.rs",
            "let now = std::time::Instant::now();",
            "cluster/time.rs:1: cluster names std::time::Instant",
        ),
        ("node/core.rs", "tokio::spawn(run());", "node/core.rs:1: node names tokio::"),
        (
            "node/core.rs",
            "use tokio_util::codec::Decoder;",
            "node/core.rs:1: node names tokio_util::",
        ),
        (
            "version/dot.rs",
            "use crate::{encoding, ring};",
            "version/dot.rs:1: version imports ring",
        ),
    ];
    for (path, text, expected) in planted {
        let faults = faults(&BTreeMap::from([(path.to_owned(), text.to_owned())]));
        assert!(faults.iter().any(|fault| fault == expected), "{expected}: {faults:?}");
    }
    let allowed = [
        ("ring/token.rs", "//! As [`crate::version`] says.\nuse crate::node_id::NodeId;"),
        ("wire/frame.rs", "use tokio_util::codec::Decoder;"),
        ("runtime/clock.rs", "let now = std::time::Instant::now();"),
        ("node/core.rs", "let tokio = \"a name\"; // tokio::spawn is for the rim"),
    ];
    for (path, text) in allowed {
        let faults = faults(&BTreeMap::from([(path.to_owned(), text.to_owned())]));
        assert!(faults.is_empty(), "{faults:?}");
    }
}

/// Everything under `src`, by path.
fn sources() -> io::Result<BTreeMap<String, String>> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = BTreeMap::new();
    let mut open = vec![root.clone()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap_or(Path::new("")).display().to_string();
                sources.insert(name, fs::read_to_string(&path)?);
            }
        }
    }
    Ok(sources)
}

/// The layer a source file belongs to: its first directory, or its own name.
fn layer_of(path: &str) -> &str {
    let first = path.split('/').next().unwrap_or(path);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Every path that points up or sideways, and every word of the rim below it.
fn faults(sources: &BTreeMap<String, String>) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in sources {
        let layer = layer_of(path);
        let Some((_, below)) = LAYERS.iter().find(|(name, _)| *name == layer) else { continue };
        let allowed = |name: &str| {
            name == layer
                || below.contains(&name)
                || (LEAVES.contains(&name) && !LEAVES.contains(&layer))
        };
        for (number, line) in (1..).zip(text.lines()) {
            let line = code(line);
            let names = imported(line, path);
            faults.extend(
                names
                    .into_iter()
                    .filter(|name| LAYERS.iter().any(|(layer, _)| layer == name) && !allowed(name))
                    .map(|name| format!("{path}:{number}: {layer} imports {name}")),
            );
            let is_named = |word: &&str| names_path(line, word);
            let codec = CODEC_PATHS.iter().filter(|_| layer != "wire");
            // Tests may race threads against what they test.
            if !RIM.contains(&layer) && !path.contains("/tests/") {
                let words = RIM_PATHS.iter().chain(codec).filter(|word| is_named(word));
                faults.extend(words.map(|word| format!("{path}:{number}: {layer} names {word}")));
            }
        }
    }
    faults
}

/// A line without its comment.
fn code(line: &str) -> &str {
    let end = if line.trim_start().starts_with("//") { 0 } else { line.len() };
    let line = &line[..end];
    line.split_once(" // ").map_or(line, |(code, _)| code)
}

/// The modules at the crate's root that a line's paths lead to.
fn imported<'a>(line: &'a str, path: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    let to_root =
        "super::".repeat(path.split('/').count() - usize::from(path.ends_with("/mod.rs")));
    for root in ["crate::", to_root.as_str()] {
        for (at, _) in line.match_indices(root) {
            let before = line[..at].chars().next_back();
            if before.is_some_and(|character| character.is_alphanumeric() || character == '_') {
                continue;
            }
            let rest = &line[at + root.len()..];
            match rest.strip_prefix('{') {
                Some(list) => names.extend(heads(list)),
                None => names.push(word(rest)),
            }
        }
    }
    names
}

/// The first word of each item in `{a::b, c}`.
fn heads(list: &str) -> impl Iterator<Item = &str> {
    list.split(['}', ';']).next().unwrap_or(list).split(',').map(|item| word(item.trim()))
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// Whether a line names a path, not a longer word that ends like it.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|character| !character.is_alphanumeric() && character != '_')
    })
}
