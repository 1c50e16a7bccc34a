//! Working the leaves of some slots out anew from their keys, while writes go on.
//!
//! What a scan reads and what is appended meanwhile are told apart by key: an append says what its key adds to the leaf
//! from then on, and a scan does not say otherwise. So once the scan has passed, the sums over all keys are the leaves as
//! they should be at that instant, whatever the scan saw of keys that changed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::ring::Slot;

/// What each key of some slots adds to its slot's leaf.
#[derive(Debug, Default)]
pub(super) struct Recount {
    bits: BTreeMap<(Slot, Bytes), u128>,
    appended: BTreeSet<Bytes>,
}

impl Recount {
    /// A key as the scan saw it.
    pub(super) fn seen(&mut self, slot: Slot, key: Bytes, bits: u128) {
        if !self.appended.contains(&key) {
            self.bits.insert((slot, key), bits);
        }
    }

    /// A key as it is from now on.
    pub(super) fn appended(&mut self, slot: Slot, key: &[u8], bits: u128) {
        let key = Bytes::copy_from_slice(key);
        self.bits.insert((slot, key.clone()), bits);
        self.appended.insert(key);
    }

    /// The leaves of slots that have keys.
    pub(super) fn leaves(&self) -> BTreeMap<Slot, u128> {
        let mut leaves = BTreeMap::new();
        for ((slot, _), bits) in &self.bits {
            *leaves.entry(*slot).or_default() ^= bits;
        }
        leaves
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Keys 0 to 7 of two slots in the order of a scan, with appends in between, some of them behind the scan's back,
        /// some ahead.
        #[test]
        fn the_leaves_are_those_of_the_end(
            before in prop::collection::vec(0..4_u128, 8),
            appends in prop::collection::vec((0..8_usize, 0..8_u8, 0..4_u128), 0..10),
            sees_new: bool,
        ) {
            let mut now = before;
            let mut recount = Recount::default();
            let slot_of = |key: u8| Slot(u16::from(key / 4));
            for scanned in 0..8_u8 {
                // A slice is read before its appends are known here, or after.
                let stale = now.clone();
                for (at, key, bits) in &appends {
                    if *at == usize::from(scanned) {
                        now[usize::from(*key)] = *bits;
                        recount.appended(slot_of(*key), &[*key], *bits);
                    }
                }
                let seen = if sees_new { &now } else { &stale };
                recount.seen(slot_of(scanned), Bytes::from(vec![scanned]), seen[usize::from(scanned)]);
            }
            let leaves = recount.leaves();
            for (slot, keys) in (0..).map(Slot).zip(now.chunks(4)) {
                prop_assert_eq!(leaves[&slot], keys.iter().fold(0, |leaf, bits| leaf ^ bits));
            }
        }
    }
}
