//! Write batches: the changes that happen together or not at all, already in the bytes that the commit log takes.
//!
//! ```text
//! batch := change*
//! change := 1 key_length:varint key value_length:varint value      put
//!         | 2 key_length:varint key                                delete
//!         | 3 slot:u16 bits:u128                                   XOR into the slot's leaf
//! ```

#![warn(clippy::indexing_slicing)]

use bytes::Bytes;

use crate::encoding::{DecodeError, Reader, VARINT_BYTES_MAX, put_bytes};

/// Largest batch in bytes: what one record of the log holds.
pub const BATCH_BYTES_MAX: usize = 16 << 20;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const XOR_LEAF: u8 = 3;

/// Changes that take effect together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteBatch {
    encoded: Vec<u8>,
    durable: bool,
    reserve: bool,
}

/// One change of a batch; `B` holds keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<B = Bytes> {
    /// The key now has this value.
    Put(B, B),
    /// The key has no value any more.
    Delete(B),
    /// The slot's leaf changes by these bits.
    XorLeaf(u16, u128),
}

impl WriteBatch {
    /// A batch without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `key` the value `value`.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.encoded.reserve(1 + 2 * VARINT_BYTES_MAX + key.len() + value.len());
        self.encoded.push(PUT);
        put_bytes(&mut self.encoded, key);
        put_bytes(&mut self.encoded, value);
        self
    }

    /// Takes the value of `key` away.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.encoded.push(DELETE);
        put_bytes(&mut self.encoded, key.as_ref());
        self
    }

    /// XORs `bits` into the leaf of `slot`.
    pub fn xor_leaf(&mut self, slot: u16, bits: u128) -> &mut Self {
        self.encoded.push(XOR_LEAF);
        self.encoded.extend_from_slice(&slot.to_le_bytes());
        self.encoded.extend_from_slice(&bits.to_le_bytes());
        self
    }

    /// This batch counts as durable only once it is `fdatasync`ed, whatever the sync mode.
    pub const fn durable(&mut self) -> &mut Self {
        self.durable = true;
        self
    }

    /// This batch may live on the disk reserve: it is taken when the disk is full (deletes, votes).
    pub const fn on_reserve(&mut self) -> &mut Self {
        self.reserve = true;
        self
    }

    /// A batch without changes again; its memory stays.
    pub fn clear(&mut self) {
        self.encoded.clear();
        (self.durable, self.reserve) = (false, false);
    }

    /// Whether it changes nothing.
    pub const fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// Its encoded size.
    pub const fn bytes(&self) -> usize {
        self.encoded.len()
    }

    pub(crate) const fn wants_fdatasync(&self) -> bool {
        self.durable
    }

    pub(crate) const fn may_use_reserve(&self) -> bool {
        self.reserve
    }

    pub(crate) fn encoded(&self) -> &[u8] {
        &self.encoded
    }
}

/// The changes in an encoded batch, in order. Keys and values share its memory.
/// # Errors
/// [`DecodeError`] for bytes that are no batch.
pub(crate) fn decode(encoded: &Bytes) -> Result<Vec<Change>, DecodeError> {
    let share = |bytes| encoded.slice_ref(bytes);
    let own = |change| match change {
        Change::Put(key, value) => Change::Put(share(key), share(value)),
        Change::Delete(key) => Change::Delete(share(key)),
        Change::XorLeaf(slot, bits) => Change::XorLeaf(slot, bits),
    };
    changes(encoded).map(|change| change.map(own)).collect()
}

/// The changes in an encoded batch, one by one. Bytes that are no batch give an error, and then nothing sensible.
pub(crate) fn changes(encoded: &[u8]) -> impl Iterator<Item = Result<Change<&[u8]>, DecodeError>> {
    let mut reader = Reader::new(encoded);
    std::iter::from_fn(move || (!reader.rest().is_empty()).then(|| change(&mut reader)))
}

fn change<'a>(reader: &mut Reader<'a>) -> Result<Change<&'a [u8]>, DecodeError> {
    match reader.u8()? {
        PUT => Ok(Change::Put(reader.bytes()?, reader.bytes()?)),
        DELETE => Ok(Change::Delete(reader.bytes()?)),
        XOR_LEAF => Ok(Change::XorLeaf(reader.u16()?, reader.u128()?)),
        _ => Err(DecodeError::OutOfRange("change")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_batch_decodes_to_its_changes() {
        let mut batch = WriteBatch::new();
        assert!(batch.is_empty());
        batch.put(b"k", b"").delete(b"l").xor_leaf(513, 7);
        assert_eq!(batch.bytes(), batch.encoded.len());
        let expected = [
            Change::Put(Bytes::from_static(b"k"), Bytes::new()),
            Change::Delete(Bytes::from_static(b"l")),
            Change::XorLeaf(513, 7),
        ];
        assert_eq!(decode(&batch.encoded.into()).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes.into());
        }
    }
}
