//! What the tests of several machines share: ids, layouts, entries.

use crate::node_id::NodeId;
use crate::ring::{Layout, LayoutHash, Member, Mode, Ring, Weight};

use super::{Addresses, Incarnation, LayoutTag, MemberEntry, Start, Time};

/// The node called `name`: `a`, `b`, …
pub(super) fn node(name: char) -> NodeId {
    NodeId::from_bytes([u8::try_from(name).unwrap(); 16])
}

/// The nodes called by the letters of `names`.
pub(super) fn nodes(names: &str) -> Vec<NodeId> {
    names.chars().map(node).collect()
}

/// A layout whose members are the letters of `names`.
pub(super) fn layout(version: u64, names: &str) -> Layout {
    let members = names.chars().map(|name| Member {
        id: node(name),
        name: name.to_string(),
        zone: String::new(),
        weight: Weight(1000),
    });
    let members: Vec<Member> = members.collect();
    let count = u16::try_from(members.len()).unwrap();
    let owner = (0..32).map(|partition| partition % count).collect();
    let n = u8::try_from(count.min(3)).unwrap();
    let now = Ring { q: 32, n, r: 1, w: 1, mode: Mode::Available, members, owner };
    Layout { generation: 1, version, now, next: None, recovers: false }
}

/// A tag that stands for no real layout.
pub(super) const fn tag(version: u64) -> LayoutTag {
    LayoutTag { generation: 1, version, hash: LayoutHash(version) }
}

/// Start `count` of a node.
pub(super) const fn start(count: u64, nonce: u64) -> Start {
    Start { count: Incarnation(count), nonce }
}

/// The entry of `name` in its life `count`.
pub(super) fn entry(name: char, count: u64, heartbeat: u64) -> MemberEntry {
    MemberEntry {
        id: node(name),
        start: start(count, !count),
        heartbeat,
        addresses: Addresses { peer: format!("{name}:7400"), ..Addresses::default() },
        layout: tag(1),
        log_position: 0,
        ready: 0,
    }
}

/// The instant this many milliseconds after the epoch of the test.
pub(super) fn at_ms(ms: u64) -> Time {
    Time::default().after(std::time::Duration::from_millis(ms))
}
