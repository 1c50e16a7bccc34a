//! Memtable: the writes that are in the log and in no SSTable yet, sorted.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::batch::Change;
use super::leaves::LeafChanges;
use super::log::{Header, LogPosition};
use super::table::Entry;

/// Bytes counted for an entry beside key and value.
const ENTRY_BYTES: usize = 96;

/// A key's newest value here, and the position of the write that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) value: Option<Bytes>,
    pub(crate) position: LogPosition,
}

/// A memtable that takes writes.
#[derive(Debug, Default)]
pub(crate) struct Memtable {
    entries: BTreeMap<Bytes, Held>,
    leaves: LeafChanges,
    bytes: usize,
}

/// A memtable that takes no more writes and waits for its flush.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) table: Memtable,
    /// Where the log goes on behind it.
    pub(crate) next: Header,
}

impl Memtable {
    /// Takes a change of the write at `position`.
    pub(crate) fn apply(&mut self, change: Change, position: LogPosition) {
        let (key, value) = match change {
            Change::Put(key, value) => (key, Some(value)),
            Change::Delete(key) => (key, None),
            Change::XorLeaf(slot, bits) => {
                *self.leaves.entry(slot).or_default() ^= bits;
                return;
            }
        };
        // Overwritten values count too: their batch may stay in memory as long as this table does.
        self.bytes += ENTRY_BYTES + key.len() + value.as_ref().map_or(0, Bytes::len);
        self.entries.insert(key, Held { value, position });
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Held> {
        self.entries.get(key)
    }

    /// The entries from `start` on, deletes included.
    pub(crate) fn range(&self, start: &[u8]) -> impl Iterator<Item = Entry> + '_ {
        let range = (Bound::Included(start), Bound::Unbounded);
        let entries = self.entries.range::<[u8], _>(range);
        entries.map(|(key, held)| Entry { key: key.clone(), value: held.value.clone() })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Held)> {
        self.entries.iter()
    }

    pub(crate) const fn leaves(&self) -> &LeafChanges {
        &self.leaves
    }

    /// Entries held.
    pub(crate) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Bytes taken so far, about.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.leaves.is_empty()
    }
}
