//! Tokens, slots, partitions.

use serde::{Deserialize, Serialize};

/// Slots on the ring: one for each value of a token's top 16 bits.
pub const SLOTS: usize = 1 << 16;
/// Most partitions a ring may have: one for each slot.
pub const PARTITIONS_MAX: u32 = 1 << 16;

/// A point on the ring, which wraps past `u64::MAX`: the first 8 bytes, big-endian, of SHA-1(key).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

/// One of the ring's 65,536 equal arcs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(pub u16);

/// One of a ring's Q equal arcs, each of whole slots; a virtual node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Partition(pub u32);

impl Token {
    /// Where `key` lies.
    pub fn of(key: &[u8]) -> Self {
        let _ = key;
        todo!()
    }
    /// The token at a point.
    pub const fn from_point(point: u64) -> Self {
        Self(point)
    }
    /// The point.
    pub const fn point(self) -> u64 {
        self.0
    }
    /// The slot it lies in.
    pub const fn slot(self) -> Slot {
        Slot((self.0 >> 48) as u16)
    }
}

impl Slot {
    /// The partition of a ring of `q` partitions that it lies in.
    pub const fn partition(self, q: u32) -> Partition {
        Partition(((self.0 as u64 * q as u64) >> 16) as u32)
    }
}
