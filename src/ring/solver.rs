//! Placement: a deterministic solver from members and the ring before to `owner[Q]` (DESIGN §3).

use super::{Member, Ring};

/// A placement and what it could not keep.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// For each partition an index into the members given.
    pub owner: Vec<u16>,
    /// What the numbers did not allow.
    pub shortfalls: Vec<Shortfall>,
}

/// A wish that a placement could not meet.
#[derive(Clone, Debug, PartialEq)]
pub enum Shortfall {
    /// Partitions whose first n in the walk stand in fewer zones than could be.
    Zones {
        /// How many partitions.
        partitions: usize,
    },
    /// A member whose replica count is off its share by more than rounding.
    Share {
        /// The member's name.
        member: String,
        /// Replicas it should hold.
        wanted: f64,
        /// Replicas it holds.
        got: usize,
    },
    /// N + 1 partitions in a row that are not all owned by distinct members.
    Window {
        /// How many partitions start such a row.
        partitions: usize,
    },
}

/// Places `q` partitions on `members` (sorted by id) for `n` replicas, moving little away from `before`.
pub fn place(q: u32, n: u8, members: &[Member], before: Option<&Ring>) -> Placement {
    let _ = (q, n, members, before);
    todo!()
}
