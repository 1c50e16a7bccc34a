//! Arena: the bytes of a memtable's entries, appended and never moved, freed all at once.
//!
//! ```text
//! entry := key_length:u32 value:u32 position:u64 key value       value: 0 for a delete, else its length + 1
//! ```
//! Why: an allocation a key and one a value would cost more than the rest of a write, and their frees later once more.

use crate::storage::log::LogPosition;

/// Bytes of the first chunk; each further one is as large as all before it, up to the most.
const CHUNK_BYTES_MIN: usize = 4 << 10;
/// Bytes of a chunk, unless one entry alone is larger.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Bytes of an entry before its key.
const HEADER_BYTES: usize = 16;

/// Entries' bytes, in chunks.
#[derive(Debug, Default)]
pub(super) struct Arena {
    chunks: Vec<Vec<u8>>,
    bytes: usize,
}

/// Where an entry stands: its chunk and its offset there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Address {
    chunk: u32,
    offset: u32,
}

/// An entry, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: Option<&'a [u8]>,
    pub(super) position: LogPosition,
}

impl Arena {
    /// Copies an entry in. Key and value come from a batch, which bounds them.
    pub(super) fn push(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        position: LogPosition,
    ) -> Address {
        let length = HEADER_BYTES + key.len() + value.map_or(0, <[u8]>::len);
        let has_room = |chunk: &Vec<u8>| {
            length <= chunk.capacity() - chunk.len() && chunk.len() < u32::MAX as usize
        };
        if !self.chunks.last().is_some_and(has_room) {
            let chunk_bytes = self.bytes.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX).max(length);
            self.chunks.push(Vec::with_capacity(chunk_bytes));
        }
        let number = self.chunks.len() - 1;
        let chunk = &mut self.chunks[number];
        let address = Address { chunk: field(number), offset: field(chunk.len()) };
        chunk.extend_from_slice(&field(key.len()).to_le_bytes());
        chunk.extend_from_slice(&value.map_or(0, |value| field(value.len()) + 1).to_le_bytes());
        chunk.extend_from_slice(&position.get().to_le_bytes());
        chunk.extend_from_slice(key);
        chunk.extend_from_slice(value.unwrap_or_default());
        self.bytes += length;
        address
    }

    /// The entry at an address that [`Arena::push`] gave.
    pub(super) fn get(&self, address: Address) -> Stored<'_> {
        let (key_length, value_length, rest) = self.open(address);
        let (position, rest) = rest.split_first_chunk().expect("an entry has a position");
        let (key, rest) = rest.split_at(key_length);
        Stored {
            key,
            value: value_length.checked_sub(1).map(|length| &rest[..length]),
            position: LogPosition::new(u64::from_le_bytes(*position)),
        }
    }

    /// The key of the entry at `address`.
    pub(super) fn key(&self, address: Address) -> &[u8] {
        let (key_length, _, rest) = self.open(address);
        &rest[size_of::<u64>()..][..key_length]
    }

    fn open(&self, address: Address) -> (usize, usize, &[u8]) {
        let bytes = &self.chunks[address.chunk as usize][address.offset as usize..];
        let (key_length, rest) = bytes.split_first_chunk().expect("an entry has a key length");
        let (value_length, rest) = rest.split_first_chunk().expect("an entry has a value length");
        (u32::from_le_bytes(*key_length) as usize, u32::from_le_bytes(*value_length) as usize, rest)
    }
}

/// A length or number of the arena: batches are bounded far below 4 GiB.
fn field(number: usize) -> u32 {
    u32::try_from(number).expect("a batch is bounded")
}

const _: () = assert!(crate::storage::batch::BATCH_BYTES_MAX < u32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_whatever_their_size() {
        let mut arena = Arena::default();
        let sizes = [0, 1, 100, CHUNK_BYTES_MIN, CHUNK_BYTES_MAX, 3 * CHUNK_BYTES_MAX, 0, 7];
        let entries: Vec<(Vec<u8>, Option<Vec<u8>>)> = (0_u8..)
            .zip(sizes)
            .map(|(number, size)| (vec![number; 3], (size != 7).then(|| vec![number; size])))
            .collect();
        let addresses: Vec<Address> = (1..)
            .zip(&entries)
            .map(|(position, (key, value))| {
                arena.push(key, value.as_deref(), LogPosition::new(position))
            })
            .collect();
        for ((position, address), (key, value)) in (1..).zip(addresses).zip(&entries) {
            let stored =
                Stored { key, value: value.as_deref(), position: LogPosition::new(position) };
            assert_eq!(arena.get(address), stored);
            assert_eq!(arena.key(address), key);
        }
    }
}
