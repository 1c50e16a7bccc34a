//! The leaves: one 128-bit value a slot, changed by XOR in the same batches as the data.
//!
//! Why here: they must be crash-consistent with the data. What a log record XORs is replayed with it; what a memtable
//! gathered is in the manifest edit that makes its table part of the store, and nothing later is (a leaf saved as of the
//! flush's end would take the newer records of the log twice).

use std::collections::BTreeMap;

/// Number of slots.
const SLOTS: usize = 1 << 16;

/// Slots of one chunk.
const CHUNK_SLOTS: usize = 256;

/// All leaves; chunks that hold only zeros take no memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaves(Vec<Option<Box<[u128; CHUNK_SLOTS]>>>);

/// Changes of some leaves.
pub(crate) type LeafChanges = BTreeMap<u16, u128>;

impl Leaves {
    pub(crate) fn new() -> Self {
        Self(vec![None; SLOTS / CHUNK_SLOTS])
    }

    pub(crate) fn get(&self, slot: u16) -> u128 {
        let slot = usize::from(slot);
        self.0[slot / CHUNK_SLOTS].as_ref().map_or(0, |chunk| chunk[slot % CHUNK_SLOTS])
    }

    pub(crate) fn xor(&mut self, slot: u16, bits: u128) {
        let slot = usize::from(slot);
        let chunk = self.0[slot / CHUNK_SLOTS].get_or_insert_with(|| Box::new([0; CHUNK_SLOTS]));
        chunk[slot % CHUNK_SLOTS] ^= bits;
    }

    pub(crate) fn xor_all(&mut self, changes: &LeafChanges) {
        for (slot, bits) in changes {
            self.xor(*slot, *bits);
        }
    }

    /// The changes that make these leaves of zeros.
    pub(crate) fn as_changes(&self) -> LeafChanges {
        let chunks = (0..=u16::MAX).step_by(CHUNK_SLOTS).zip(&self.0);
        let held = chunks.filter_map(|(first, chunk)| chunk.as_ref().map(|chunk| (first, chunk)));
        let leaves = held.flat_map(|(first, chunk)| (first..=u16::MAX).zip(chunk.iter().copied()));
        leaves.filter(|(_, bits)| *bits != 0).collect()
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
