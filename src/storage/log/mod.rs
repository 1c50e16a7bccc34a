//! Commit log: a write is in this file before it is acknowledged.
//!
//! Why: the memtable dies with the process; replaying the log rebuilds it. One logical stream of bytes, cut into
//! segment files `log/NNNNNNNN.log` that live until the memtables they fed are SSTables.
//! ```text
//! segment := header record* 0*
//! header  := magic:"KVKITLOG" format:u32 origin:u32 segment:u64 first_position:u64 checksum:u64          40 bytes
//! origin  := 0 written by a store | 1 salvaged: what stood in between may be lost
//! record  := checksum:u64 position:u64 synced:u64 length:u32 reserved:u32 payload:[u8; length] pad to 8
//! ```
//! `position` is where the record starts in the stream: `first_position` plus its offset behind the header; the
//! position of a *write* is where its record ends. `synced` is up to where the stream was known to be `fdatasync`ed
//! when the record was written. A payload is one batch (see [`super::batch`]). Both checksums are bound to segment and
//! offset; the record's covers everything behind it, padding too. The segment being written is longer than its records:
//! where nothing but zeros follows, it ends.
//!
//! Invariants: a record is never rewritten. In the sync mode `always` a segment appears under its name with a sound
//! header, and only after the stream before it was synced to its end. So the existence of a segment, like the `synced`
//! of a record, proves that what stands before was durable: a bad record there is damage. One that nothing proves durable
//! is the torn end of an unacknowledged write, and cuts the log. In the other modes the log is *loose*, which its
//! manifest says: segments are created without waiting for the disk and prove nothing.

#![warn(clippy::indexing_slicing)]

pub(crate) mod reader;
pub(crate) mod writer;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::checksum::checksum;
use crate::encoding::{DecodeError, Reader};

/// First bytes of a segment.
pub const MAGIC: [u8; 8] = *b"KVKITLOG";
/// Version of the format that this code writes, and the only one it reads.
pub const FORMAT: u32 = 1;
/// Bytes of a segment's header.
pub const HEADER_BYTES: usize = 40;
/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 32;
/// Records start at multiples of this many bytes behind the header.
pub const RECORD_ALIGNMENT: usize = 8;
/// Bytes of a checksum, which stands first in a record and last in a header.
const CHECKSUM_BYTES: usize = 8;

const _: () = assert!(HEADER_BYTES.is_multiple_of(RECORD_ALIGNMENT));
const _: () = assert!(RECORD_HEADER_BYTES.is_multiple_of(RECORD_ALIGNMENT));
const _: () = assert!(super::batch::BATCH_BYTES_MAX <= u32::MAX as usize);

/// A place in the stream of all that a store ever logged, in bytes; grows for ever, across restarts too.
///
/// A write's position is the end of its record. `ZERO`, the default, says "in no memtable, and durable".
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct LogPosition(u64);

/// A segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// The segment's number, also in its name.
    pub(crate) segment: u64,
    /// Where in the stream its first record starts.
    pub(crate) first_position: LogPosition,
    /// Who wrote it.
    pub(crate) origin: Origin,
}

/// Who wrote a segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A store.
    #[default]
    Written,
    /// The salvage of a damaged one: records in between may be lost.
    Salvaged,
}

/// What stands before a record's payload, its checksum verified or not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordHeader {
    pub(crate) checksum: u64,
    pub(crate) position: LogPosition,
    pub(crate) synced: LogPosition,
    pub(crate) length: usize,
}

impl LogPosition {
    /// In no memtable, and durable.
    pub const ZERO: Self = Self(0);

    /// The position this many bytes into the stream.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes of the stream before it.
    pub const fn get(self) -> u64 {
        self.0
    }

    pub(crate) const fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        let origin = match self.origin {
            Origin::Written => 0_u32,
            Origin::Salvaged => 1,
        };
        bytes.extend_from_slice(&origin.to_le_bytes());
        bytes.extend_from_slice(&self.segment.to_le_bytes());
        bytes.extend_from_slice(&self.first_position.0.to_le_bytes());
        bytes.extend_from_slice(&checksum(self.segment, 0, &bytes).to_le_bytes());
        bytes.try_into().expect("the fields fill the header")
    }

    /// The header in `bytes`, or why it is none.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let truncated = |_: DecodeError| {
            format!("{} bytes are too few for a log segment's header", bytes.len())
        };
        let mut reader = Reader::new(bytes);
        let covered = bytes.get(..HEADER_BYTES - CHECKSUM_BYTES).unwrap_or_default();
        let magic: [u8; 8] = reader.array().map_err(truncated)?;
        let format = reader.u32().map_err(truncated)?;
        let origin = reader.u32().map_err(truncated)?;
        let segment = reader.u64().map_err(truncated)?;
        let first_position = LogPosition(reader.u64().map_err(truncated)?);
        let stored = reader.u64().map_err(truncated)?;
        if magic != MAGIC {
            return Err("no commit log segment: its first bytes are others".to_owned());
        }
        if format != FORMAT {
            return Err(format!("log format {format}, but this program reads {FORMAT}"));
        }
        let computed = checksum(segment, 0, covered);
        if computed != stored {
            return Err(format!("header checksum {stored:016x}, computed {computed:016x}"));
        }
        let origin = match origin {
            0 => Origin::Written,
            1 => Origin::Salvaged,
            other => return Err(format!("a segment of unknown origin, {other}")),
        };
        Ok(Self { segment, first_position, origin })
    }
}

impl RecordHeader {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let checksum = reader.u64()?;
        let position = LogPosition(reader.u64()?);
        let synced = LogPosition(reader.u64()?);
        let length = reader.u32()? as usize;
        let _reserved = reader.u32()?;
        Ok(Self { checksum, position, synced, length })
    }
}

/// Bytes that a record with this payload takes.
pub(crate) const fn record_bytes(payload_bytes: usize) -> usize {
    RECORD_HEADER_BYTES + payload_bytes.next_multiple_of(RECORD_ALIGNMENT)
}

/// Appends a record that stands at `offset` of `segment`.
pub(crate) fn encode_record(
    out: &mut Vec<u8>,
    (segment, offset): (u64, u64),
    position: LogPosition,
    synced: LogPosition,
    payload: &[u8],
) {
    let start = out.len();
    let length = u32::try_from(payload.len()).expect("a batch is bounded");
    out.reserve(record_bytes(payload.len()));
    out.extend_from_slice(&[0; CHECKSUM_BYTES]);
    out.extend_from_slice(&position.0.to_le_bytes());
    out.extend_from_slice(&synced.0.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out.resize(start + record_bytes(payload.len()), 0);
    let (head, covered) = out.split_at_mut(start + CHECKSUM_BYTES);
    let sum = checksum(segment, offset, covered).to_le_bytes();
    if let Some(field) = head.last_chunk_mut::<CHECKSUM_BYTES>() {
        *field = sum;
    }
}
