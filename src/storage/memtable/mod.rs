//! Memtable: the writes that are in the log and in no SSTable yet, sorted.
//!
//! Its entries' bytes stand in an [`arena`], their order in a [`tree`] over it.

mod arena;
mod tree;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::batch::Change;
use super::leaves::LeafChanges;
use super::log::{Header, LogPosition};
use super::table::Entry;
use arena::{Arena, Stored};
use tree::Tree;
pub(in crate::storage) use tree::prefix;

/// Bytes counted for an entry beside key and value: its header in the arena, and its places in the tree's nodes, which
/// are two thirds full.
const ENTRY_BYTES: usize = 52;

/// A key's newest value here, and the position of the write that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) value: Option<Bytes>,
    pub(crate) position: LogPosition,
}

/// A memtable that takes writes.
#[derive(Debug, Default)]
pub(crate) struct Memtable {
    arena: Arena,
    tree: Tree,
    leaves: LeafChanges,
    bytes: usize,
    /// Entries by the first byte of their key, which tells the keyspace.
    by_keyspace: BTreeMap<u8, u64>,
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
    pub(crate) fn apply(&mut self, change: Change<&[u8]>, position: LogPosition) {
        let (key, value) = match change {
            Change::Put(key, value) => (key, Some(value)),
            Change::Delete(key) => (key, None),
            Change::XorLeaf(slot, bits) => {
                *self.leaves.entry(slot).or_default() ^= bits;
                return;
            }
        };
        // Overwritten values count too: they stay in the arena as long as this table does.
        self.bytes += ENTRY_BYTES + key.len() + value.map_or(0, <[u8]>::len);
        let address = self.arena.push(key, value, position);
        if self.tree.insert(&self.arena, key, address) {
            *self.by_keyspace.entry(key.first().copied().unwrap_or_default()).or_default() += 1;
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Held> {
        let address = self.tree.get(&self.arena, key)?;
        let Stored { value, position, .. } = self.arena.get(address);
        Some(Held { value: value.map(Bytes::copy_from_slice), position })
    }

    /// The entries from `start` on, deletes included.
    pub(crate) fn range<'a>(&'a self, start: &[u8]) -> impl Iterator<Item = Entry> + use<'a> {
        self.stored(start).map(|stored| Entry {
            key: Bytes::copy_from_slice(stored.key),
            value: stored.value.map(Bytes::copy_from_slice),
        })
    }

    /// All keys in order, and their values; `None` for a delete.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.stored(&[]).map(|stored| (stored.key, stored.value))
    }

    pub(crate) const fn leaves(&self) -> &LeafChanges {
        &self.leaves
    }

    /// Entries held.
    pub(crate) const fn entries(&self) -> usize {
        self.tree.len()
    }

    /// Entries whose key begins with this byte.
    pub(crate) fn entries_in(&self, keyspace: u8) -> u64 {
        self.by_keyspace.get(&keyspace).copied().unwrap_or_default()
    }

    /// Bytes taken so far, about.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries() == 0 && self.leaves.is_empty()
    }

    fn stored<'a>(&'a self, start: &[u8]) -> impl Iterator<Item = Stored<'a>> + use<'a> {
        self.tree.from(&self.arena, start).map(|address| self.arena.get(address))
    }
}
