//! The notation of this module's tests: actors `a`, `b`, and `a.2` for `a`'s second epoch; clocks `a2 b1` (or `a.2=7`);
//! states `a2:x b1:- / a2 b1`: versions with their values (`-` is a tombstone), then the clock where it covers more.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use proptest::prelude::*;

use crate::node_id::NodeId;

use super::{Actor, Content, Dot, Epoch, RequestId, Siblings, Timestamp, VectorClock, Version};

/// The node whose id is this text, padded with zeros.
pub(crate) fn node(name: &str) -> NodeId {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    NodeId::from_bytes(bytes)
}

/// `a`, or `a.2` for its second epoch.
pub(crate) fn actor(text: &str) -> Actor {
    let (name, counter) =
        text.split_once('.').map_or((text, 1), |(name, counter)| (name, counter.parse().unwrap()));
    Actor { node: node(name), epoch: Epoch { counter, random: 0 } }
}

/// `a2`, or `a.2=7` for an actor of a later epoch.
pub(crate) fn dot(text: &str) -> Dot {
    let (name, counter) = text.split_once('=').unwrap_or_else(|| {
        text.split_at(
            text.find(|letter: char| letter.is_ascii_digit()).expect("a dot has a counter"),
        )
    });
    Dot { actor: actor(name), counter: counter.parse().unwrap() }
}

/// `a2 b1`.
pub(crate) fn clock(text: &str) -> VectorClock {
    let mut clock = VectorClock::new();
    for entry in text.split_whitespace() {
        clock.observe(dot(entry));
    }
    clock
}

/// A version that holds `text`, or a tombstone for `-`, as the `request`-th put of session 1.
pub(crate) fn version(text: &str, request: u64) -> Version {
    let content = if text == "-" {
        Content::Tombstone
    } else {
        Content::Value(Bytes::copy_from_slice(text.as_bytes()))
    };
    Version {
        timestamp: Timestamp::default(),
        request: RequestId { session: 1, counter: request },
        content,
    }
}

/// `a2:x b1:- / a3`. Each dot's request id is its counter.
pub(crate) fn state(text: &str) -> Siblings {
    let (versions, seen) = text.split_once('/').unwrap_or((text, ""));
    let mut seen = clock(seen);
    let versions: BTreeMap<Dot, Version> = versions
        .split_whitespace()
        .map(|entry| entry.split_once(':').expect("a version is dot:value"))
        .map(|(name, value)| (dot(name), version(value, dot(name).counter)))
        .collect();
    for dot in versions.keys() {
        seen.observe(*dot);
    }
    Siblings::from_parts(seen, versions).expect("its clock covers its versions")
}

/// Clocks of up to four actors with small counters.
pub(crate) fn clocks() -> impl Strategy<Value = VectorClock> {
    let entry = (prop::sample::select(vec!["a", "b", "b.2", "c"]), 1..4_u64);
    prop::collection::vec(entry, 0..5).prop_map(|entries| {
        let mut clock = VectorClock::new();
        for (name, counter) in entries {
            clock.observe(Dot { actor: actor(name), counter });
        }
        clock
    })
}

impl fmt::Display for VectorClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |actor: Actor| {
            let bytes = actor.node.as_bytes();
            let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        };
        let shown: Vec<String> = self
            .iter()
            .map(|(actor, counter)| match actor.epoch.counter {
                1 => format!("{}{counter}", name(actor)),
                epoch => format!("{}.{epoch}={counter}", name(actor)),
            })
            .collect();
        write!(f, "{}", shown.join(" "))
    }
}

/// States that replicas of one cluster could hold of one key: dots that mean the same write in each of them.
pub(crate) fn states() -> impl Strategy<Value = Siblings> {
    let name = prop::sample::select(vec!["a", "b", "b.2"]);
    (prop::collection::btree_set((name, 1..4_u64), 0..5), clocks()).prop_map(|(dots, mut seen)| {
        let dots = dots.into_iter().map(|(name, counter)| Dot { actor: actor(name), counter });
        let value = |dot: Dot| if dot.counter == 2 { "-".to_owned() } else { format!("{dot:?}") };
        let versions: BTreeMap<Dot, Version> =
            dots.map(|dot| (dot, version(&value(dot), dot.counter))).collect();
        for dot in versions.keys() {
            seen.observe(*dot);
        }
        Siblings::from_parts(seen, versions).expect("its clock covers its versions")
    })
}
