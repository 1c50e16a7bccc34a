//! Manifest: which tables and which part of the log make up the store.
//!
//! An append log of edits in `manifest/NNNNNNNN.manifest`; `manifest/CURRENT` holds the number of the one that counts.
//! ```text
//! CURRENT  := number as 8 digits or more, a space, its checksum as 16 hexadecimal digits, a newline
//! manifest := header edit+
//! header   := magic:"KVKITMAN" format:u32 reserved:u32 manifest:u64 checksum:u64                      32 bytes
//! edit     := checksum:u64 previous:u64 length:u32 reserved:u32 payload:[u8; length] pad to 8
//! payload  := field*
//! field    := 1 table:varint level:varint bytes:varint footer_checksum:u64 entries:varint deletes:varint
//!               first_key last_key                       a table of the store; keys behind a varint length
//!           | 2 table:varint                             no longer
//!           | 3 number:varint                            the next unused number of a table or segment
//!           | 4 segment:varint position:varint           what the log holds before is in tables
//!           | 5 position:varint                          the log was synced up to here
//!           | 6 slot:u16 bits:u128                       XORed into the slot's leaf
//!           | 7                                          the log from the floor on is loose, see [`super::log`]
//!           | 8 table:varint is_mended:u8 first_key last_key
//!                                                        a hole of the table of the field 1 before it, see `storage::hole`
//!           | 9 table:varint                             no longer, and damaged: its file belongs into `damaged/`
//! ```
//! Checksums are bound to manifest number and offset; an edit's covers everything behind it. `previous` is the checksum
//! of the edit before (of the header, for the first), so that none can be missing in between. The first edit is the
//! whole store as of then, synced before `CURRENT` names the file.
//!
//! Invariants: an edit is synced before anything relies on it, and only then is a file removed that it made obsolete. So
//! a bad *last* edit was never relied on and is dropped; a bad one with a sound one behind it, or the first, is damage.

#![warn(clippy::indexing_slicing)]

pub(crate) mod reader;
pub(crate) mod writer;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::Serialize;

use super::checksum::checksum;
use super::hole::Hole;
use super::leaves::{LeafChanges, Leaves};
use super::log::{Header, LogPosition, Origin};
use super::table::KeyRange;
use super::table::builder::Written;
use crate::encoding::{DecodeError, Reader, put_bytes, put_varint};

/// First bytes of a manifest.
pub const MAGIC: [u8; 8] = *b"KVKITMAN";
/// Version of the format that this code writes, and the only one it reads.
pub const FORMAT: u32 = 1;
/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = 32;
/// Bytes of an edit before its payload.
pub(crate) const EDIT_HEADER_BYTES: usize = 24;
/// Edits start at multiples of this many bytes.
pub(crate) const EDIT_ALIGNMENT: usize = 8;
/// Largest payload of an edit; a reader calls more corrupt.
pub(crate) const EDIT_BYTES_MAX: usize = 256 << 20;
/// Bytes of a checksum.
const CHECKSUM_BYTES: usize = 8;

const TABLE: u8 = 1;
const NO_TABLE: u8 = 2;
const NEXT_NUMBER: u8 = 3;
const FLOOR: u8 = 4;
const SYNCED: u8 = 5;
const LEAF: u8 = 6;
const LOOSE_LOG: u8 = 7;
const HOLE: u8 = 8;
const SET_ASIDE: u8 = 9;

/// A table as the manifest knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableMeta {
    /// Its number, also in its name.
    pub number: u64,
    /// Its level: 0 as flushed, overlapping; deeper ones are disjoint and older.
    pub level: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// The checksum in its footer.
    pub footer_checksum: u64,
    /// Entries, deletes included.
    pub entries: u64,
    /// Entries that are deletes.
    pub deletes: u64,
    /// The least key.
    pub first: Bytes,
    /// The greatest key.
    pub last: Bytes,
    /// Key ranges that were lost at its age.
    pub holes: Vec<Hole>,
}

/// One change of the store's make-up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// Tables that now belong to the store.
    pub added: Vec<TableMeta>,
    /// Numbers of tables that no longer do.
    pub removed: Vec<u64>,
    /// The next unused number.
    pub next_number: Option<u64>,
    /// Segment and position where replay starts.
    pub floor: Option<(u64, LogPosition)>,
    /// Up to where the log was synced.
    pub synced: Option<LogPosition>,
    /// Bits by which leaves change.
    pub leaves: LeafChanges,
    /// Whether the log that begins with this manifest is loose: its segments do not prove that what is before is durable.
    pub is_log_loose: bool,
    /// Numbers of removed tables whose files are damaged, and kept.
    pub set_aside: BTreeSet<u64>,
}

/// What the edits so far add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) tables: BTreeMap<u64, TableMeta>,
    pub(crate) next_number: u64,
    /// Where replay starts.
    pub(crate) floor: Header,
    /// Up to where the log was known to be synced.
    pub(crate) synced: LogPosition,
    pub(crate) leaves: Leaves,
    /// The log from the floor on is loose.
    pub(crate) is_log_loose: bool,
    /// Damaged tables whose files may not be where they are kept yet.
    pub(crate) set_aside: BTreeSet<u64>,
}

impl TableMeta {
    /// The table that was written.
    pub(crate) fn new(written: &Written) -> Self {
        Self::with_holes(written, Vec::new())
    }

    /// The table that was written, with these holes: entries, holes, or both it must have.
    pub(crate) fn with_holes(written: &Written, holes: Vec<Hole>) -> Self {
        let entries = (written.properties.entries > 0).then_some((&written.first, &written.last));
        let ranges = || holes.iter().map(|hole| (&hole.keys.first, &hole.keys.last)).chain(entries);
        let first = ranges().map(|(first, _)| first).min().cloned().unwrap_or_default();
        let last = ranges().map(|(_, last)| last).max().cloned().unwrap_or_default();
        Self {
            number: written.number,
            level: written.properties.level,
            bytes: written.bytes,
            footer_checksum: written.footer_checksum,
            entries: written.properties.entries,
            deletes: written.properties.deletes,
            first,
            last,
            holes,
        }
    }

    /// The keys from the first to the last.
    pub fn keys(&self) -> KeyRange {
        KeyRange { first: self.first.clone(), last: self.last.clone() }
    }

    pub(crate) fn may_hold(&self, key: &[u8]) -> bool {
        *self.first <= *key && *key <= *self.last
    }

    pub(crate) fn overlaps(&self, keys: &KeyRange) -> bool {
        self.first <= keys.last && keys.first <= self.last
    }
}

impl State {
    /// A store without anything.
    pub(crate) fn new() -> Self {
        let floor =
            Header { segment: 0, first_position: LogPosition::ZERO, origin: Origin::Written };
        Self {
            tables: BTreeMap::new(),
            next_number: 1,
            floor,
            synced: LogPosition::ZERO,
            leaves: Leaves::new(),
            is_log_loose: false,
            set_aside: BTreeSet::new(),
        }
    }

    pub(crate) fn apply(&mut self, edit: &Edit) {
        for number in &edit.removed {
            self.tables.remove(number);
        }
        self.tables.extend(edit.added.iter().map(|table| (table.number, table.clone())));
        self.next_number = edit.next_number.unwrap_or(self.next_number);
        if let Some((segment, first_position)) = edit.floor {
            self.floor = Header { segment, first_position, origin: Origin::Written };
        }
        self.synced = edit.synced.unwrap_or(self.synced);
        self.leaves.xor_all(&edit.leaves);
        self.is_log_loose |= edit.is_log_loose;
        self.set_aside.extend(&edit.set_aside);
    }

    /// The one edit that makes this of nothing.
    pub(crate) fn as_edit(&self) -> Edit {
        Edit {
            added: self.tables.values().cloned().collect(),
            removed: Vec::new(),
            next_number: Some(self.next_number),
            floor: Some((self.floor.segment, self.floor.first_position)),
            synced: Some(self.synced),
            leaves: self.leaves.as_changes(),
            is_log_loose: self.is_log_loose,
            set_aside: self.set_aside.clone(),
        }
    }
}

impl Edit {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for table in &self.added {
            out.push(TABLE);
            for value in [table.number, table.level, table.bytes] {
                put_varint(&mut out, value);
            }
            out.extend_from_slice(&table.footer_checksum.to_le_bytes());
            for value in [table.entries, table.deletes] {
                put_varint(&mut out, value);
            }
            put_bytes(&mut out, &table.first);
            put_bytes(&mut out, &table.last);
            table.holes.iter().for_each(|hole| encode_hole(&mut out, hole));
        }
        let numbers = self.removed.iter().map(|number| (NO_TABLE, *number));
        let numbers = numbers.chain(self.set_aside.iter().map(|number| (SET_ASIDE, *number)));
        let numbers = numbers.chain(self.next_number.map(|number| (NEXT_NUMBER, number)));
        for (tag, number) in numbers.chain(self.synced.map(|position| (SYNCED, position.get()))) {
            out.push(tag);
            put_varint(&mut out, number);
        }
        if let Some((segment, position)) = self.floor {
            out.push(FLOOR);
            put_varint(&mut out, segment);
            put_varint(&mut out, position.get());
        }
        for (slot, bits) in &self.leaves {
            out.push(LEAF);
            out.extend_from_slice(&slot.to_le_bytes());
            out.extend_from_slice(&bits.to_le_bytes());
        }
        if self.is_log_loose {
            out.push(LOOSE_LOG);
        }
        out
    }

    pub(crate) fn decode(payload: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let mut edit = Self::default();
        while !reader.rest().is_empty() {
            match reader.u8()? {
                TABLE => edit.added.push(decode_table(payload, &mut reader)?),
                NO_TABLE => edit.removed.push(reader.varint()?),
                NEXT_NUMBER => edit.next_number = Some(reader.varint()?),
                FLOOR => edit.floor = Some((reader.varint()?, LogPosition::new(reader.varint()?))),
                SYNCED => edit.synced = Some(LogPosition::new(reader.varint()?)),
                LEAF => {
                    let (slot, bits) = (reader.u16()?, reader.u128()?);
                    edit.leaves.insert(slot, bits);
                }
                LOOSE_LOG => edit.is_log_loose = true,
                HOLE => {
                    let hole = decode_hole(payload, &mut reader)?;
                    let table =
                        edit.added.last_mut().filter(|table| table.keys().covers(&hole.keys));
                    table.ok_or(DecodeError::OutOfRange("hole"))?.holes.push(hole);
                }
                SET_ASIDE => drop(edit.set_aside.insert(reader.varint()?)),
                _ => return Err(DecodeError::OutOfRange("field of a manifest edit")),
            }
        }
        Ok(edit)
    }
}

fn decode_table(payload: &Bytes, reader: &mut Reader<'_>) -> Result<TableMeta, DecodeError> {
    let (number, level, bytes) = (reader.varint()?, reader.varint()?, reader.varint()?);
    let footer_checksum = reader.u64()?;
    let (entries, deletes) = (reader.varint()?, reader.varint()?);
    let (first, last) = (payload.slice_ref(reader.bytes()?), payload.slice_ref(reader.bytes()?));
    if last < first {
        return Err(DecodeError::OutOfRange("last key"));
    }
    let holes = Vec::new();
    Ok(TableMeta { number, level, bytes, footer_checksum, entries, deletes, first, last, holes })
}

fn encode_hole(out: &mut Vec<u8>, hole: &Hole) {
    out.push(HOLE);
    put_varint(out, hole.lost_with);
    out.push(u8::from(hole.is_mended));
    put_bytes(out, &hole.keys.first);
    put_bytes(out, &hole.keys.last);
}

fn decode_hole(payload: &Bytes, reader: &mut Reader<'_>) -> Result<Hole, DecodeError> {
    let lost_with = reader.varint()?;
    let is_mended = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return Err(DecodeError::OutOfRange("whether a hole is mended")),
    };
    let (first, last) = (payload.slice_ref(reader.bytes()?), payload.slice_ref(reader.bytes()?));
    if last < first {
        return Err(DecodeError::OutOfRange("last key of a hole"));
    }
    Ok(Hole { lost_with, is_mended, keys: KeyRange { first, last } })
}

/// The header of manifest `number`, and its checksum.
pub(crate) fn encode_header(number: u64) -> (Vec<u8>, u64) {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&number.to_le_bytes());
    let sum = checksum(number, 0, &out);
    out.extend_from_slice(&sum.to_le_bytes());
    (out, sum)
}

/// The number and checksum in a manifest's header, or why it is none.
pub(crate) fn decode_header(bytes: &[u8]) -> Result<(u64, u64), String> {
    let truncated =
        |_: DecodeError| format!("{} bytes are too few for a manifest's header", bytes.len());
    let mut reader = Reader::new(bytes);
    let magic: [u8; 8] = reader.array().map_err(truncated)?;
    let format = reader.u32().map_err(truncated)?;
    let _reserved = reader.u32().map_err(truncated)?;
    let number = reader.u64().map_err(truncated)?;
    let stored = reader.u64().map_err(truncated)?;
    if magic != MAGIC {
        return Err("no manifest: its first bytes are others".to_owned());
    }
    if format != FORMAT {
        return Err(format!("manifest format {format}, but this program reads {FORMAT}"));
    }
    match checksum(number, 0, bytes.get(..HEADER_BYTES - CHECKSUM_BYTES).unwrap_or_default()) {
        computed if computed == stored => Ok((number, stored)),
        computed => Err(format!("header checksum {stored:016x}, computed {computed:016x}")),
    }
}

/// The edit as it stands at `offset` of `manifest`, and its checksum.
pub(crate) fn seal_edit(
    edit: &Edit,
    previous: u64,
    (manifest, offset): (u64, u64),
) -> (Vec<u8>, u64) {
    let payload = edit.encode();
    let mut covered = Vec::with_capacity(edit_bytes(payload.len()));
    covered.extend_from_slice(&previous.to_le_bytes());
    covered.extend_from_slice(
        &u32::try_from(payload.len()).expect("an edit is bounded").to_le_bytes(),
    );
    covered.extend_from_slice(&[0; 4]);
    covered.extend_from_slice(&payload);
    covered.resize(edit_bytes(payload.len()) - CHECKSUM_BYTES, 0);
    let sum = checksum(manifest, offset, &covered);
    let mut out = sum.to_le_bytes().to_vec();
    out.append(&mut covered);
    (out, sum)
}

/// Bytes that an edit with this payload takes.
pub(crate) const fn edit_bytes(payload_bytes: usize) -> usize {
    EDIT_HEADER_BYTES + payload_bytes.next_multiple_of(EDIT_ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_state_is_its_edit_applied_to_nothing() {
        let mut state = State::new();
        let table = TableMeta {
            number: 3,
            level: 1,
            bytes: 1000,
            footer_checksum: u64::MAX,
            entries: 9,
            deletes: 2,
            first: Bytes::from_static(b"a"),
            last: Bytes::from_static(b"z"),
            holes: Vec::new(),
        };
        let keys = |first, last| KeyRange {
            first: Bytes::from_static(first),
            last: Bytes::from_static(last),
        };
        let lost = Hole::lost(2, keys(b"a", b"d"));
        let mended = Hole { is_mended: true, ..Hole::lost(1, keys(b"c", b"z")) };
        state.apply(&Edit {
            added: vec![table.clone(), TableMeta { number: 4, holes: vec![lost, mended], ..table }],
            set_aside: BTreeSet::from([1, 2]),
            ..Edit::default()
        });
        let floor = Some((6, LogPosition::new(70)));
        let leaves = LeafChanges::from([(5, 6)]);
        state.apply(&Edit {
            removed: vec![3],
            floor,
            leaves,
            next_number: Some(7),
            ..Edit::default()
        });
        let decoded = Edit::decode(&state.as_edit().encode().into()).unwrap();
        let mut copy = State::new();
        copy.apply(&decoded);
        assert_eq!(copy, state);
        assert_eq!(copy.tables.keys().copied().collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn the_bytes_of_holes_stay_what_they_are() {
        let keys = |first, last| KeyRange {
            first: Bytes::from_static(first),
            last: Bytes::from_static(last),
        };
        let table = TableMeta {
            number: 3,
            level: 1,
            bytes: 1000,
            footer_checksum: 0x0102_0304_0506_0708,
            entries: 9,
            deletes: 2,
            first: Bytes::from_static(b"a"),
            last: Bytes::from_static(b"z"),
            holes: vec![
                Hole::lost(2, keys(b"a", b"d")),
                Hole { is_mended: true, ..Hole::lost(1, keys(b"c", b"z")) },
            ],
        };
        let edit = Edit {
            added: vec![table],
            removed: vec![2],
            set_aside: BTreeSet::from([2]),
            ..Edit::default()
        };
        let bytes = concat!(
            "010301e807080706050403020109020161017a",
            "08020001610164",
            "0801010163017a",
            "02020902",
        );
        let bytes = Bytes::from(data_encoding::HEXLOWER.decode(bytes.as_bytes()).unwrap());
        assert_eq!(edit.encode(), bytes);
        assert_eq!(Edit::decode(&bytes).as_ref(), Ok(&edit));
        // A hole belongs to the table before it, and lies within its keys.
        for (from, bad) in [(0, 0), (19, 0), (21, 2), (23, b'Z'), (25, b'{')] {
            let mut bytes = bytes[if from == 0 { 19 } else { 0 }..].to_vec();
            if from > 0 {
                bytes[from] = bad;
            }
            assert!(Edit::decode(&bytes.into()).is_err(), "{bad} at byte {from}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(bytes: Vec<u8>) {
            let _ = decode_header(&bytes);
            let _ = Edit::decode(&bytes.into());
        }
    }
}
