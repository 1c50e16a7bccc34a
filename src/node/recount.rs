//! Working a slot's leaf out anew from its keys, while writes go on.
//!
//! What a scan reads and what is appended meanwhile are told apart by key: an append says what its key adds to the leaf
//! from then on, and a scan does not say otherwise. So once the scan has passed, the sum over all keys is the leaf as it
//! should be at that instant, whatever the scan saw of keys that changed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

/// What each key of a slot adds to its leaf.
#[derive(Debug, Default)]
pub(super) struct Recount {
    bits: BTreeMap<Bytes, u128>,
    appended: BTreeSet<Bytes>,
}

impl Recount {
    /// A key as the scan saw it.
    pub(super) fn seen(&mut self, key: Bytes, bits: u128) {
        if !self.appended.contains(&key) {
            self.bits.insert(key, bits);
        }
    }

    /// A key as it is from now on.
    pub(super) fn appended(&mut self, key: &[u8], bits: u128) {
        let key = Bytes::copy_from_slice(key);
        self.bits.insert(key.clone(), bits);
        self.appended.insert(key);
    }

    /// The leaf.
    pub(super) fn leaf(&self) -> u128 {
        self.bits.values().fold(0, |leaf, bits| leaf ^ bits)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Keys 0 to 7 in the order of a scan, with appends in between, some of them behind the scan's back, some ahead.
        #[test]
        fn the_leaf_is_that_of_the_end(
            before in prop::collection::vec(0..4_u128, 8),
            appends in prop::collection::vec((0..8_usize, 0..8_u8, 0..4_u128), 0..10),
            sees_new: bool,
        ) {
            let mut now = before;
            let mut recount = Recount::default();
            for scanned in 0..8_u8 {
                // A slice is read before its appends are known here, or after.
                let stale = now.clone();
                for (at, key, bits) in &appends {
                    if *at == usize::from(scanned) {
                        now[usize::from(*key)] = *bits;
                        recount.appended(&[*key], *bits);
                    }
                }
                let seen = if sees_new { &now } else { &stale };
                recount.seen(Bytes::from(vec![scanned]), seen[usize::from(scanned)]);
            }
            prop_assert_eq!(recount.leaf(), now.iter().fold(0, |leaf, bits| leaf ^ bits));
        }
    }
}
