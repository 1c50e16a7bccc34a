//! Index: the last key and the place of each data block, laid out for searching.
//!
//! The keys stay in the block's payload. Beside it stand, in one array, the eight bytes of each key behind what all keys
//! share, as numbers: a search halves those, which stand side by side, and looks at keys only where numbers are equal.

#![warn(clippy::indexing_slicing)]

use std::cmp::Ordering;

use bytes::Bytes;

use super::{BlockError, BlockHandle};
use crate::encoding::{DecodeError, Reader};

/// Bytes of a key that are compared as a number.
const PREFIX_BYTES: usize = size_of::<u64>();

/// A table's index, decoded.
#[derive(Debug)]
pub(crate) struct Index {
    payload: Bytes,
    /// The table's least key.
    first: Bytes,
    /// Bytes that all last keys share.
    shared: usize,
    /// Of each last key, what follows the shared bytes.
    prefixes: Vec<u64>,
    places: Vec<Place>,
}

/// A data block's place and the last key in it.
#[derive(Debug, Clone)]
pub(crate) struct IndexEntry {
    pub(crate) last: Bytes,
    pub(crate) handle: BlockHandle,
}

/// Where a block's last key stands in the payload, and where the block stands in the file.
#[derive(Debug, Clone, Copy)]
struct Place {
    key: u32,
    key_length: u32,
    handle: BlockHandle,
}

impl Index {
    pub(crate) fn decode(payload: &Bytes) -> Result<Self, BlockError> {
        let mut reader = Reader::new(payload);
        let first = payload.slice_ref(reader.bytes()?);
        let count = reader.length()?;
        let mut index = Self {
            payload: payload.clone(),
            first,
            shared: 0,
            prefixes: Vec::new(),
            places: Vec::new(),
        };
        let mut before: Option<&[u8]> = None;
        for _ in 0..count {
            let last = reader.bytes()?;
            let key = payload.len() - reader.rest().len() - last.len();
            let handle = BlockHandle { offset: reader.varint()?, length: reader.varint()? };
            if before.is_some_and(|before| last <= before) {
                return Err(BlockError::Malformed("the index does not ascend".to_owned()));
            }
            before = Some(last);
            let field =
                |number| u32::try_from(number).map_err(|_| DecodeError::OutOfRange("index"));
            index.places.push(Place { key: field(key)?, key_length: field(last.len())?, handle });
        }
        reader.finish()?;
        index.shared = shared(index.key(0), index.key(count.saturating_sub(1)));
        index.prefixes =
            (0..index.len()).map(|number| prefix(index.key(number), index.shared)).collect();
        Ok(index)
    }

    /// Data blocks in the table.
    pub(crate) const fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) const fn first_key(&self) -> &Bytes {
        &self.first
    }

    pub(crate) fn handle(&self, number: usize) -> Option<BlockHandle> {
        self.places.get(number).map(|place| place.handle)
    }

    pub(crate) fn get(&self, number: usize) -> Option<IndexEntry> {
        let handle = self.handle(number)?;
        Some(IndexEntry { last: self.payload.slice_ref(self.key(number)), handle })
    }

    pub(crate) fn last(&self) -> Option<IndexEntry> {
        self.get(self.len().checked_sub(1)?)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = IndexEntry> {
        (0..self.len()).filter_map(|number| self.get(number))
    }

    /// The number of the first block whose last key is at least `key`; the number of blocks when there is none.
    pub(crate) fn block_of(&self, key: &[u8]) -> usize {
        let own = self.key(0).get(..self.shared).unwrap_or_default();
        match key.get(..self.shared).unwrap_or(key).cmp(own) {
            Ordering::Less => return 0,
            Ordering::Greater => return self.len(),
            Ordering::Equal => {}
        }
        let sought = prefix(key, self.shared);
        let low = self.prefixes.partition_point(|prefix| *prefix < sought);
        if self.prefixes.get(low) != Some(&sought) || key <= self.key(low) {
            return low;
        }
        let equal = self.prefixes.get(low..).unwrap_or_default();
        let equal = equal.partition_point(|prefix| *prefix == sought);
        let places = self.places.get(low..low + equal).unwrap_or_default();
        low + places.partition_point(|place| self.bytes(*place) < key)
    }

    /// Bytes in memory, about.
    pub(crate) fn bytes_pinned(&self) -> usize {
        self.payload.len() + self.len() * (PREFIX_BYTES + size_of::<Place>())
    }

    fn key(&self, number: usize) -> &[u8] {
        self.places.get(number).map_or(&[], |place| self.bytes(*place))
    }

    fn bytes(&self, place: Place) -> &[u8] {
        let (start, length) = (place.key as usize, place.key_length as usize);
        self.payload.get(start..start + length).unwrap_or_default()
    }
}

/// Bytes that both keys begin with.
fn shared(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

/// The bytes of `key` behind the first `skipped`, as a number that sorts as they do; zeros where it is shorter.
#[expect(clippy::big_endian_bytes, reason = "numbers must sort as the bytes do")]
fn prefix(key: &[u8], skipped: usize) -> u64 {
    let rest = key.get(skipped..).unwrap_or_default();
    let bytes = rest.first_chunk::<PREFIX_BYTES>().copied().unwrap_or_else(|| {
        let mut bytes = [0; PREFIX_BYTES];
        bytes.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        bytes
    });
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encoding::{put_bytes, put_varint};

    fn index(keys: &[Vec<u8>]) -> Result<Index, BlockError> {
        let mut payload = Vec::new();
        put_bytes(&mut payload, keys.first().map_or(&[], Vec::as_slice));
        put_varint(&mut payload, keys.len() as u64);
        for (number, key) in (0_u64..).zip(keys) {
            put_bytes(&mut payload, key);
            put_varint(&mut payload, number * 100);
            put_varint(&mut payload, 84);
        }
        Index::decode(&payload.into())
    }

    #[track_caller]
    fn check(mut keys: Vec<Vec<u8>>, sought: &[Vec<u8>]) {
        keys.sort();
        keys.dedup();
        let index = index(&keys).unwrap();
        for key in keys.iter().chain(sought) {
            let expected = keys.partition_point(|last| last < key);
            assert_eq!(index.block_of(key), expected, "{key:?} among {keys:?}");
        }
        let offsets = (0..keys.len()).map(|number| index.handle(number).unwrap().offset);
        assert!(offsets.eq((0..).step_by(100).take(keys.len())));
    }

    #[test]
    fn keys_that_share_much_are_told_apart() {
        let key = |number: u32| format!("user:0000000000000000:{number:04}:name").into_bytes();
        let sought =
            [b"a".to_vec(), b"user".to_vec(), b"user:0000000000000000".to_vec(), b"v".to_vec()];
        check((0..500).map(key).collect(), &sought);
        check(vec![b"only".to_vec()], &[b"onl".to_vec(), b"onlz".to_vec(), b"only\0".to_vec()]);
    }

    #[test]
    fn an_index_that_does_not_ascend_is_malformed() {
        assert!(index(&[b"b".to_vec(), b"a".to_vec()]).is_err());
        assert!(index(&[b"a".to_vec(), b"a".to_vec()]).is_err());
    }

    proptest! {
        #[test]
        fn any_keys(
            keys in prop::collection::vec(prop::collection::vec(0..3_u8, 0..14), 1..80),
            sought in prop::collection::vec(prop::collection::vec(0..3_u8, 0..16), 0..40),
        ) {
            check(keys, &sought);
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes: Vec<u8>, key: Vec<u8>) {
            if let Ok(index) = Index::decode(&bytes.into()) {
                index.block_of(&key);
            }
        }
    }
}
