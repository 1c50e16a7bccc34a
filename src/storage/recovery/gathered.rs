//! What a replay gathers for one table: nobody reads it meanwhile, so it is sorted once, when it is full, which costs a
//! fifth of keeping a memtable in order.

use bytes::Bytes;

use crate::storage::memtable::prefix;
use crate::storage::table::Entry;

/// Bytes counted for an entry beside key and value.
const ENTRY_BYTES: usize = size_of::<Entry>() + size_of::<Place>();

/// Entries in the order in which they were written.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    entries: Vec<Entry>,
    bytes: usize,
}

/// An entry in the order of keys.
#[derive(Debug, Clone, Copy)]
struct Place {
    prefix: u128,
    index: u32,
}

impl Gathered {
    /// Takes an entry, newer than those before. It is a part of what was read with it, which stays in memory.
    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += ENTRY_BYTES + entry.key.len() + entry.value.as_ref().map_or(0, Bytes::len);
        self.entries.push(entry);
    }

    /// Bytes of memory taken, about.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Each key's newest entry, in the order of keys.
    pub(super) fn sorted(&self) -> impl Iterator<Item = &Entry> {
        let mut places: Vec<Place> = (0..)
            .zip(&self.entries)
            .map(|(index, entry)| Place { prefix: prefix(&entry.key), index })
            .collect();
        let entry = |place: &Place| &self.entries[place.index as usize];
        places.sort_unstable_by(|left, right| {
            let keys = || entry(left).key.cmp(&entry(right).key);
            left.prefix.cmp(&right.prefix).then_with(keys).then(right.index.cmp(&left.index))
        });
        places.dedup_by(|later, before| {
            later.prefix == before.prefix && entry(later).key == entry(before).key
        });
        places.into_iter().map(move |place| entry(&place))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_key_comes_once_in_order_with_what_was_written_last(
            written in prop::collection::vec(
                (prop::collection::vec(0..2_u8, 0..20), prop::option::of(0..9_u8)),
                0..200,
            ),
        ) {
            let (mut gathered, mut expected) = (Gathered::default(), BTreeMap::new());
            for (key, value) in written {
                let value = value.map(|byte| Bytes::from(vec![byte]));
                gathered.push(Entry { key: key.clone().into(), value: value.clone() });
                expected.insert(key, value);
            }
            let sorted = gathered.sorted().map(|entry| (entry.key.to_vec(), entry.value.clone()));
            prop_assert_eq!(sorted.collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
        }
    }
}
