//! SSTable: sorted entries in one immutable file, `sst/NNNNNNNN.sst`.
//!
//! ```text
//! table      := data_block+ filter_block? index_block properties_block footer
//! block      := payload codec:u8 kind:u8 reserved:u16 raw_length:u32 checksum:u64         16 bytes of trailer
//! data       := entry* offset:u32* count:u32         offsets of the entries, so that a search halves
//! entry      := key_length:varint value:varint key value        value: 0 for a delete, else its length + 1
//! filter     := line*                                see [`bloom`]
//! index      := first_key count:varint (last_key offset:varint length:varint)*       one per data block; keys as bytes
//! properties := (name value)*                        each as bytes behind a varint length; see [`Properties`]
//! footer     := magic:"KVKITSST" format:u32 reserved:u32 table:u64 filter index properties checksum:u64     80 bytes
//!               filter, index, properties := offset:u64 length:u64, length without the trailer; 0 0 for no filter
//! ```
//! A block's checksum covers payload and trailer and is bound to table number and offset (`storage::checksum`).
//! `raw_length` is the payload's size before compression, and `codec` says what was done: 0 nothing; 1 LZ4; 2, of data
//! blocks, LZ4 of the entries alone, for the offsets follow from them and hardly compress. Data is written with 2, and 1 is
//! read. A codec that a program does not know is an error that names it.
//!
//! Invariants: keys ascend strictly. A file under its name is whole and synced. The manifest knows the footer's checksum
//! and the length, so that a sound file of another store is not taken for this one.

#![warn(clippy::indexing_slicing)]

pub(crate) mod block;
pub(crate) mod bloom;
pub(crate) mod builder;
pub(crate) mod index;
pub(crate) mod properties;
pub(crate) mod reader;

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use serde::Serialize;

use super::checksum::checksum;
use crate::encoding::{DecodeError, Reader};

pub use properties::Properties;

/// First bytes of the footer.
pub const MAGIC: [u8; 8] = *b"KVKITSST";
/// Version of the format that this code writes, and the only one it reads.
pub const FORMAT: u32 = 1;
/// Bytes of the footer.
pub const FOOTER_BYTES: usize = 80;
/// Bytes of a checksum.
const CHECKSUM_BYTES: usize = 8;

/// A key and its value; `None` says that the key was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value, or `None` for a delete.
    pub value: Option<Bytes>,
}

/// Where a block's payload stands; the trailer follows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockHandle {
    /// Byte offset of the payload.
    pub offset: u64,
    /// Bytes of the payload.
    pub length: u64,
}

/// The end of the file, from which everything else is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) table: u64,
    pub(crate) filter: BlockHandle,
    pub(crate) index: BlockHandle,
    pub(crate) properties: BlockHandle,
}

/// A block or footer that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The checksum is another.
    #[error("checksum {stored:016x}, computed {computed:016x}")]
    Checksum {
        /// What stands in the file.
        stored: u64,
        /// What its bytes give.
        computed: u64,
    },
    /// The checksum holds, or was not reached, but the bytes make no sense.
    #[error("{0}")]
    Malformed(String),
    /// The table is no longer part of the store. What was lost with it has not been brought back; keys in the range that
    /// were written since are served.
    #[error("the table was set aside, and what was lost with it waits for repair")]
    SetAside,
}

/// Keys from `first` to `last`, both included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KeyRange {
    /// The least key.
    pub first: Bytes,
    /// The greatest key.
    pub last: Bytes,
}

/// Why keys cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system's error.
    #[error("cannot read {}", file.display())]
    Io {
        /// The table.
        file: PathBuf,
        /// The keys that cannot be read.
        keys: KeyRange,
        /// The cause.
        source: io::Error,
    },
    /// What stands there is damaged. Keys outside the range are served.
    #[error("{}: block at byte {offset} is corrupt", file.display())]
    Corrupt {
        /// The table.
        file: PathBuf,
        /// Byte offset of the block, or of the footer.
        offset: u64,
        /// The keys that the block may hold.
        keys: KeyRange,
        /// What is wrong with it.
        source: BlockError,
    },
}

impl KeyRange {
    /// Whether the key is one of them.
    pub fn holds(&self, key: &[u8]) -> bool {
        *self.first <= *key && *key <= *self.last
    }

    /// Whether all of the other's are.
    pub fn covers(&self, other: &Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

impl ReadError {
    /// The keys that cannot be read.
    pub const fn keys(&self) -> &KeyRange {
        match self {
            Self::Io { keys, .. } | Self::Corrupt { keys, .. } => keys,
        }
    }
}

impl From<DecodeError> for BlockError {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl Footer {
    pub(crate) fn encode(&self, offset: u64) -> [u8; FOOTER_BYTES] {
        let mut bytes = Vec::with_capacity(FOOTER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.table.to_le_bytes());
        for handle in [self.filter, self.index, self.properties] {
            bytes.extend_from_slice(&handle.offset.to_le_bytes());
            bytes.extend_from_slice(&handle.length.to_le_bytes());
        }
        bytes.extend_from_slice(&checksum(self.table, offset, &bytes).to_le_bytes());
        bytes.try_into().expect("the fields fill the footer")
    }

    /// The footer in `bytes`, which stand at `offset`, and its checksum.
    pub(crate) fn decode(bytes: &[u8], offset: u64) -> Result<(Self, u64), BlockError> {
        let mut reader = Reader::new(bytes);
        if reader.array() != Ok(MAGIC) {
            return Err(BlockError::Malformed(
                "no SSTable: the footer's first bytes are others".to_owned(),
            ));
        }
        let format = reader.u32()?;
        if format != FORMAT {
            return Err(BlockError::Malformed(format!(
                "SSTable format {format}, but this program reads {FORMAT}"
            )));
        }
        let _reserved = reader.u32()?;
        let table = reader.u64()?;
        let mut handle =
            || Ok::<_, DecodeError>(BlockHandle { offset: reader.u64()?, length: reader.u64()? });
        let (filter, index, properties) = (handle()?, handle()?, handle()?);
        let stored = reader.u64()?;
        reader.finish()?;
        let computed =
            checksum(table, offset, bytes.get(..FOOTER_BYTES - CHECKSUM_BYTES).unwrap_or_default());
        if computed != stored {
            return Err(BlockError::Checksum { stored, computed });
        }
        Ok((Self { table, filter, index, properties }, stored))
    }
}
