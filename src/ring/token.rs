//! Tokens, slots, partitions.

use serde::{Deserialize, Serialize};
use sha1_smol::Sha1;

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
        Self(sha1_prefix(key))
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
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the product of a u16 and a u32 has 48 bits; 32 are left"
    )]
    pub const fn partition(self, q: u32) -> Partition {
        Partition(((self.0 as u64 * q as u64) >> 16) as u32)
    }
}

impl Partition {
    /// The slots of this partition in a ring of `q`, which lie side by side.
    /// # Panics
    /// When the ring has no such partition.
    pub fn slots(self, q: u32) -> impl DoubleEndedIterator<Item = Slot> + Clone {
        assert!(self.0 < q && q <= PARTITIONS_MAX, "partition {} of {q}", self.0);
        let width = PARTITIONS_MAX / q;
        let first = self.0 * width;
        (first..first + width).map(|slot| Slot(u16::try_from(slot).expect("a slot has 16 bits")))
    }
}

/// The first 8 bytes of SHA-1, so that the number's hexadecimal digits are the digest's.
#[expect(clippy::big_endian_bytes, reason = "tokens sort as the digest's bytes do")]
pub(super) fn sha1_prefix(bytes: &[u8]) -> u64 {
    let digest = Sha1::from(bytes).digest().bytes();
    u64::from_be_bytes(*digest.first_chunk().expect("a SHA-1 digest has 20 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_head_of_the_keys_sha1() {
        // `abc` is RFC 3174's own.
        assert_eq!(Token::of(b"abc").point(), 0xa999_3e36_4706_816a);
        assert_eq!(Token::of(b"").point(), 0xda39_a3ee_5e6b_4b0d);
        assert_eq!(Token::of(b"abc").slot(), Slot(0xa999));
    }

    #[test]
    fn partitions_are_whole_slots_and_cover_the_ring() {
        for q in [1, 2, 32, 1024, PARTITIONS_MAX] {
            let slots: Vec<Slot> =
                (0..q).flat_map(|partition| Partition(partition).slots(q)).collect();
            assert!(slots.iter().map(|slot| usize::from(slot.0)).eq(0..SLOTS), "{q} partitions");
            assert!(
                (0..q).all(|p| Partition(p).slots(q).all(|slot| slot.partition(q) == Partition(p)))
            );
        }
    }
}
