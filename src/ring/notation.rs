//! The notation of this module's tests: members as a line of `weight` or `weight@zone`, named n1, n2, ….

use crate::node_id::NodeId;

use super::{Member, Mode, Ring, Weight, place};

/// The node n`number`.
pub(crate) fn node(number: u32) -> NodeId {
    format!("{number:032x}").parse().expect("32 hexadecimal digits")
}

/// n`number` with this weight and zone.
pub(crate) fn member(number: u32, weight: Weight, zone: &str) -> Member {
    Member { id: node(number), name: format!("n{number}"), zone: zone.to_owned(), weight }
}

/// `1 1 0.5@b`: n1, n2, n3.
pub(crate) fn members(text: &str) -> Vec<Member> {
    let parse = |(number, text): (u32, &str)| {
        let (weight, zone) = text.split_once('@').unwrap_or((text, ""));
        member(number, weight.parse().unwrap(), zone)
    };
    (1..).zip(text.split_whitespace()).map(parse).collect()
}

/// A ring of these owners (indexes of members), r = w = a majority of n.
pub(crate) fn ring(n: u8, members: Vec<Member>, owner: Vec<u16>) -> Ring {
    let (q, majority) = (u32::try_from(owner.len()).unwrap(), n / 2 + 1);
    Ring { q, n, r: majority, w: majority, mode: Mode::Available, members, owner }
}

/// A ring as the solver places it.
pub(crate) fn placed(q: u32, n: u8, members: Vec<Member>, before: Option<&Ring>) -> Ring {
    let owner = place(q, n, &members, before).owner;
    ring(n, members, owner)
}
