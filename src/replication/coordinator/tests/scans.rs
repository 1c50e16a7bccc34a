//! Scans: pages of several owners as one, and repairs on the way.

use bytes::Bytes;

use super::harness::*;
use crate::replication::*;
use crate::ring::{Slot, Token};
use crate::version::notation::{node, state};

/// Keys of the first partition's slots, in the order of a scan.
fn keys(preferences: &crate::ring::Preferences, count: usize) -> Vec<Bytes> {
    let first = preferences.of_slot(Slot(0)).owners().next();
    let mut keys: Vec<Bytes> = (0..)
        .map(|number| Bytes::from(format!("key{number}")))
        .filter(|key| preferences.of_slot(Token::of(key).slot()).owners().next() == first)
        .take(count)
        .collect();
    keys.sort_by_key(|key| (Token::of(key).slot(), key.clone()));
    keys
}

fn scan(level: Level, after: Option<(Slot, Bytes)>, entries_max: u32) -> Operation {
    Operation::Scan {
        slots: (Slot(0), Slot(u16::MAX)),
        after,
        prefix: Bytes::new(),
        r: Some(level),
        bytes_max: entries_max,
    }
}

/// Each node's holdings as a line of values in key order, `.` for none.
fn holding(lines: &[(&str, &str)]) -> (Cluster, Vec<Bytes>) {
    let mut cluster = Cluster::new(3, 2, 2);
    let keys = keys(&cluster.preferences, 6);
    for (name, line) in lines {
        for (key, held) in keys.iter().zip(line.split_whitespace()) {
            if held != "." {
                cluster.node(name).states.insert(key.clone(), state(held));
            }
        }
    }
    (cluster, keys)
}

/// Scans to the end, a page of so many entries after the other.
fn pages(cluster: &mut Cluster, level: Level, entries_max: u32) -> (Vec<String>, u32) {
    let (mut found, mut repaired, mut after) = (Vec::new(), 0, None);
    loop {
        let op = cluster.begin("a", scan(level, after, entries_max));
        let Some(Ok(Outcome::Scanned(page))) = cluster.run().result(op).cloned() else {
            panic!("no page: {:?}", cluster.result(op))
        };
        found.extend(page.entries.iter().map(|entry| values(&entry.state)));
        repaired += page.repaired;
        if page.complete {
            return (found, repaired);
        }
        after = page.entries.last().map(|entry| (entry.slot, entry.key.clone()));
    }
}

#[test]
fn every_key_is_found_once_whatever_the_pages_size() {
    for entries_max in 1..=7 {
        let (mut cluster, _) = holding(&[
            ("a", "d1:1 .    d1:3 .    .    d1:6"),
            ("b", ".    d1:2 d1:3 e2:4 .    d1:6"),
            ("c", ".    .    .    .    .    ."),
        ]);
        let (found, repaired) = pages(&mut cluster, Level::Quorum, entries_max);
        assert_eq!(found, ["1", "2", "3", "4", "6"], "{entries_max} a page");
        assert_eq!(repaired, 3, "{entries_max} a page");
    }
}

#[test]
fn a_scan_of_all_owners_leaves_them_equal() {
    let (mut cluster, keys) = holding(&[
        ("a", "d1:1 .    d1:3 d1:x d1:v ."),
        ("b", ".    d1:2 d1:3 e1:y d1:v ."),
        ("c", ".    .    .    .    d2:- ."),
    ]);
    let (found, repaired) = pages(&mut cluster, Level::All, 100);
    assert_eq!((found, repaired), (["1", "2", "3", "x y", "-"].map(str::to_owned).into(), 5));
    for key in &keys {
        let held = ["a", "b", "c"].map(|name| cluster.state(name, key).digest());
        assert_eq!(held, [held[0]; 3]);
    }
    assert_eq!(pages(&mut cluster, Level::All, 100).1, 0, "nothing is left to repair");
}

#[test]
fn a_scan_below_its_quorum_names_who_is_missing() {
    let (mut cluster, _) = holding(&[("a", "d1:1")]);
    let op = cluster.stop("b").begin("a", scan(Level::All, None, 100));
    let failure = cluster.run().failure(op);
    assert_eq!((failure.kind, failure.needed), (FailureKind::QuorumUnmet, 3));
    assert_eq!(failure.failed, [(node("b"), FailedWhy::Unreachable)]);
    let op = cluster.hold("ac").begin("a", scan(Level::Quorum, None, 100));
    let failure = cluster.run().stop("c").failure(op);
    assert_eq!(failure.acked, [node("a")]);
}

#[test]
fn a_silent_owner_is_hedged() {
    let (mut cluster, _) = holding(&[("a", "d1:1"), ("b", "d1:1"), ("c", "d1:1")]);
    let op = cluster.hold("ab").begin("a", scan(Level::Quorum, None, 100));
    cluster.run().pass(TIMEOUT / 2).run();
    let Some(Ok(Outcome::Scanned(page))) = cluster.result(op) else { panic!("no page") };
    assert_eq!(page.answered, [node("a"), node("c")]);
}
