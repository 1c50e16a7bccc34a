//! The leaves: one 128-bit value a slot, changed by XOR in the same batches as the data.
//!
//! Why here: they must be crash-consistent with the data. What a log record XORs is replayed with it; what a memtable
//! gathered is in the manifest edit that makes its table part of the store, and nothing later is (a leaf saved as of the
//! flush's end would take the newer records of the log twice).

use std::collections::BTreeMap;

/// Number of slots.
pub const SLOTS: usize = 1 << 16;

/// All leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaves(Box<[u128]>);

/// Changes of some leaves.
pub(crate) type LeafChanges = BTreeMap<u16, u128>;

impl Leaves {
    pub(crate) fn new() -> Self {
        Self(vec![0; SLOTS].into_boxed_slice())
    }

    pub(crate) fn get(&self, slot: u16) -> u128 {
        self.0[usize::from(slot)]
    }

    pub(crate) fn xor(&mut self, slot: u16, bits: u128) {
        self.0[usize::from(slot)] ^= bits;
    }

    pub(crate) fn xor_all(&mut self, changes: &LeafChanges) {
        changes.iter().for_each(|(slot, bits)| self.xor(*slot, *bits));
    }

    /// The changes that make these leaves of zeros.
    pub(crate) fn as_changes(&self) -> LeafChanges {
        (0..=u16::MAX)
            .zip(&self.0)
            .filter(|(_, bits)| **bits != 0)
            .map(|(slot, bits)| (slot, *bits))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_are_made_of_their_changes() {
        let mut leaves = Leaves::new();
        leaves.xor(7, 5);
        leaves.xor(u16::MAX, 1);
        leaves.xor(3, 9);
        leaves.xor(3, 9);
        assert_eq!(leaves.as_changes(), LeafChanges::from([(7, 5), (u16::MAX, 1)]));
        let mut other = Leaves::new();
        other.xor_all(&leaves.as_changes());
        assert_eq!(other, leaves);
    }
}
