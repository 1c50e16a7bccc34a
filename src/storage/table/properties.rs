//! What a table says about itself.

#![warn(clippy::indexing_slicing)]

use serde::Serialize;

use super::BlockError;
use crate::encoding::{Reader, put_bytes, put_varint};
use crate::storage::log::LogPosition;

/// A table's account of itself: names and values, so that a later release can add some.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Properties {
    /// Entries, deletes included.
    pub entries: u64,
    /// Entries that are deletes.
    pub deletes: u64,
    /// Data blocks.
    pub data_blocks: u64,
    /// Bytes of all keys.
    pub key_bytes: u64,
    /// Bytes of all values.
    pub value_bytes: u64,
    /// Bytes of the data blocks before compression.
    pub raw_bytes: u64,
    /// Bits of bloom filter a key; 0 without a filter.
    pub bloom_bits_per_key: u64,
    /// The level it was written for; where files overlap, those of a lower level are newer.
    pub level: u64,
    /// The log position up to which its entries were written; within level 0, higher is newer.
    pub newest: LogPosition,
}

impl Properties {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, value) in self.fields() {
            put_bytes(&mut bytes, name.as_bytes());
            let mut encoded = Vec::new();
            put_varint(&mut encoded, value);
            put_bytes(&mut bytes, &encoded);
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BlockError> {
        let mut properties = Self::default();
        let mut reader = Reader::new(bytes);
        while !reader.rest().is_empty() {
            let (name, value) = (reader.bytes()?, reader.bytes()?);
            properties.set(name, value)?;
        }
        Ok(properties)
    }

    const fn fields(&self) -> [(&'static str, u64); 9] {
        [
            ("entries", self.entries),
            ("deletes", self.deletes),
            ("data_blocks", self.data_blocks),
            ("key_bytes", self.key_bytes),
            ("value_bytes", self.value_bytes),
            ("raw_bytes", self.raw_bytes),
            ("bloom_bits_per_key", self.bloom_bits_per_key),
            ("level", self.level),
            ("newest", self.newest.get()),
        ]
    }

    fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), BlockError> {
        let mut position = 0;
        let field = match name {
            b"entries" => &mut self.entries,
            b"deletes" => &mut self.deletes,
            b"data_blocks" => &mut self.data_blocks,
            b"key_bytes" => &mut self.key_bytes,
            b"value_bytes" => &mut self.value_bytes,
            b"raw_bytes" => &mut self.raw_bytes,
            b"bloom_bits_per_key" => &mut self.bloom_bits_per_key,
            b"level" => &mut self.level,
            b"newest" => &mut position,
            // A later release's property.
            _ => return Ok(()),
        };
        *field = Reader::new(value).varint()?;
        if name == b"newest" {
            self.newest = LogPosition::new(position);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_come_back_and_unknown_ones_are_skipped() {
        let properties = Properties {
            entries: 7,
            level: 3,
            newest: LogPosition::new(99),
            ..Properties::default()
        };
        let mut bytes = properties.encode();
        put_bytes(&mut bytes, b"colour");
        put_bytes(&mut bytes, b"green, perhaps");
        assert_eq!(Properties::decode(&bytes).unwrap(), properties);
    }
}
