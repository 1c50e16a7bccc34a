//! One block: sealed with codec and checksum for the file, opened and checked from it; and what a data block holds.

#![warn(clippy::indexing_slicing)]

use std::cmp::Ordering;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::bloom::KeyHash;
use super::reader::Lookup;
use super::{BlockError, Entry};
use crate::encoding::{DecodeError, Reader, put_varint};
use crate::storage::checksum::checksum;
use crate::storage::options::Compression;

/// Bytes of a block behind its payload.
pub(crate) const TRAILER_BYTES: usize = 16;
/// Largest payload, before compression; a reader calls more corrupt.
pub(crate) const RAW_BYTES_MAX: usize = 1 << 30;
/// A compressed block is stored so only when it saves at least this share, in hundredths.
const SAVED_PERCENT_MIN: usize = 12;
/// Bytes of the checksum, last in the trailer.
const CHECKSUM_BYTES: usize = 8;
/// Where the tag of a [`TaggedOffset`] begins.
const TAG_SHIFT: u32 = 24;
/// Largest value that a lookup copies out of its block, in bytes.
const VALUE_BYTES_COPIED_MAX: usize = 512;
/// Bytes of an entry's offset, and of their count.
const OFFSET_BYTES: usize = 4;

/// The payload as it is.
const RAW: u8 = 0;
/// The payload, compressed.
const LZ4: u8 = 1;
/// The entries of a data block, compressed. Their offsets, which hardly compress, are worked out again.
const LZ4_ENTRIES: u8 = 2;
/// The greatest codec there is.
pub(crate) const CODEC_MAX: u8 = LZ4_ENTRIES;

/// What a block holds; part of its trailer, so that an index is never read as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Data = 1,
    Filter = 2,
    Index = 3,
    Properties = 4,
}

/// Appends the block with this payload, standing at `offset` of `table`; the length of the payload as stored.
pub(crate) fn seal(
    out: &mut Vec<u8>,
    payload: &[u8],
    kind: Kind,
    compression: Compression,
    (table, offset): (u64, u64),
) -> u64 {
    let start = out.len();
    let (codec, source) = match kind {
        Kind::Data => (LZ4_ENTRIES, entries_of(payload).expect("a data block ends in its offsets")),
        Kind::Filter | Kind::Index | Kind::Properties => (LZ4, payload),
    };
    let codec = match compression {
        Compression::Lz4 if compress(out, source, payload.len()) => codec,
        Compression::Lz4 | Compression::None => {
            out.extend_from_slice(payload);
            RAW
        }
    };
    let length = out.len() - start;
    out.extend_from_slice(&[codec, kind as u8, 0, 0]);
    out.extend_from_slice(
        &u32::try_from(payload.len()).expect("a payload is bounded").to_le_bytes(),
    );
    let sum = checksum(table, offset, out.get(start..).unwrap_or_default());
    out.extend_from_slice(&sum.to_le_bytes());
    length as u64
}

/// Appends `source` compressed, if that pays beside so many bytes.
fn compress(out: &mut Vec<u8>, source: &[u8], raw_length: usize) -> bool {
    let start = out.len();
    out.resize(start + lz4_flex::block::get_maximum_output_size(source.len()), 0);
    let room = out.get_mut(start..).unwrap_or_default();
    let compressed = lz4_flex::block::compress_into(source, room).unwrap_or(usize::MAX);
    let pays = compressed <= raw_length / 100 * (100 - SAVED_PERCENT_MIN);
    out.truncate(if pays { start + compressed } else { start });
    pays
}

/// The payload of a block with its trailer, that stands at `offset` of `table`.
pub(crate) fn open(
    block: &Bytes,
    kind: Kind,
    (table, offset): (u64, u64),
) -> Result<Bytes, BlockError> {
    let Some(length) = block.len().checked_sub(TRAILER_BYTES) else {
        return Err(DecodeError::Truncated.into());
    };
    let (payload, mut trailer) =
        (block.slice(..length), Reader::new(block.get(length..).unwrap_or_default()));
    let [codec, found, _, _] = trailer.array()?;
    let raw_length = trailer.u32()? as usize;
    let stored = trailer.u64()?;
    let computed =
        checksum(table, offset, block.get(..block.len() - CHECKSUM_BYTES).unwrap_or_default());
    if stored != computed {
        return Err(BlockError::Checksum { stored, computed });
    }
    if found != kind as u8 {
        return Err(BlockError::Malformed(format!(
            "a block of kind {found}, expected {}",
            kind as u8
        )));
    }
    match codec {
        RAW if raw_length == payload.len() => Ok(payload),
        LZ4 if raw_length <= RAW_BYTES_MAX => whole(decompress(&payload, raw_length)?, raw_length),
        LZ4_ENTRIES if raw_length <= RAW_BYTES_MAX && kind == Kind::Data => {
            let mut raw = decompress(&payload, raw_length)?;
            put_offsets(&mut raw, raw_length)?;
            whole(raw, raw_length)
        }
        RAW | LZ4 | LZ4_ENTRIES => {
            Err(BlockError::Malformed(format!("raw length {raw_length} for {length} bytes")))
        }
        _ => Err(BlockError::Malformed(format!("unknown codec {codec}"))),
    }
}

/// At most so many bytes.
fn decompress(payload: &[u8], raw_length: usize) -> Result<Vec<u8>, BlockError> {
    let malformed =
        |error: lz4_flex::block::DecompressError| BlockError::Malformed(error.to_string());
    lz4_flex::block::decompress(payload, raw_length).map_err(malformed)
}

fn whole(raw: Vec<u8>, raw_length: usize) -> Result<Bytes, BlockError> {
    if raw.len() == raw_length {
        return Ok(raw.into());
    }
    Err(BlockError::Malformed(format!("{} bytes decompressed, expected {raw_length}", raw.len())))
}

/// A data block's payload without the offsets and their count. [`put_offsets`] brings them back.
fn entries_of(payload: &[u8]) -> Option<&[u8]> {
    let count = u32::from_le_bytes(*payload.last_chunk::<OFFSET_BYTES>()?) as usize;
    payload.get(..payload.len().checked_sub((count + 1) * OFFSET_BYTES)?)
}

/// Appends the offsets of the entries, and their count. More than `raw_length` bytes in all is an error before it is
/// memory.
fn put_offsets(entries: &mut Vec<u8>, raw_length: usize) -> Result<(), BlockError> {
    let entries_end = entries.len();
    let (mut offset, mut count) = (0, 0_u32);
    while offset < entries_end {
        let mut reader =
            Reader::new(entries.get(offset..entries_end).ok_or(DecodeError::Truncated)?);
        let (key, value) = (reader.length()?, reader.length()?.saturating_sub(1));
        reader.take(key)?;
        reader.take(value)?;
        let field = u32::try_from(offset).map_err(|_| DecodeError::OutOfRange("offset"))?;
        offset = entries_end - reader.rest().len();
        if entries.len() + 2 * OFFSET_BYTES > raw_length {
            return Err(DecodeError::OutOfRange("raw length").into());
        }
        entries.extend_from_slice(&field.to_le_bytes());
        count += 1;
    }
    entries.extend_from_slice(&count.to_le_bytes());
    Ok(())
}

/// A data block being filled.
#[derive(Debug, Default)]
pub(crate) struct DataBuilder {
    entries: Vec<u8>,
    offsets: Vec<u32>,
}

impl DataBuilder {
    pub(crate) const fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn push(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.offsets.push(u32::try_from(self.entries.len()).expect("a block is bounded"));
        put_varint(&mut self.entries, key.len() as u64);
        put_varint(&mut self.entries, value.map_or(0, |value| value.len() as u64 + 1));
        self.entries.extend_from_slice(key);
        self.entries.extend_from_slice(value.unwrap_or_default());
    }

    /// The block's payload; the builder is empty again.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut payload = std::mem::take(&mut self.entries);
        for offset in &self.offsets {
            payload.extend_from_slice(&offset.to_le_bytes());
        }
        payload.extend_from_slice(
            &u32::try_from(self.offsets.len()).expect("a block is bounded").to_le_bytes(),
        );
        self.offsets.clear();
        payload
    }
}

/// A data block, opened. Entries share its memory, except for small values.
#[derive(Debug, Clone)]
pub(crate) struct DataBlock(Arc<Content>);

#[derive(Debug)]
struct Content {
    payload: Bytes,
    /// Where the offsets start.
    entries_end: usize,
    count: usize,
    /// A key was looked up. Who comes second finds that more may follow.
    was_searched: AtomicBool,
    /// One an entry, from the second lookup on; none where an offset is beyond their reach.
    tags: OnceLock<Box<[TaggedOffset]>>,
}

/// An entry's offset in the lower 24 bits, and a byte of its key's hash above: what a lookup needs stands side by side.
#[derive(Debug, Clone, Copy)]
struct TaggedOffset(u32);

/// An entry, read.
#[derive(Debug, Clone, Copy)]
struct Stored<'a> {
    key: &'a [u8],
    value: Option<&'a [u8]>,
}

impl DataBlock {
    pub(crate) fn new(payload: Bytes) -> Result<Self, BlockError> {
        let count = payload.last_chunk::<OFFSET_BYTES>().ok_or(DecodeError::Truncated)?;
        let count = u32::from_le_bytes(*count) as usize;
        let tail = count.checked_add(1).and_then(|count| count.checked_mul(OFFSET_BYTES));
        let entries_end =
            tail.and_then(|tail| payload.len().checked_sub(tail)).ok_or(DecodeError::Truncated)?;
        if count == 0 {
            return Err(BlockError::Malformed("a data block without entries".to_owned()));
        }
        let (was_searched, tags) = (AtomicBool::new(false), OnceLock::new());
        Ok(Self(Arc::new(Content { payload, entries_end, count, was_searched, tags })))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.count
    }

    /// Bytes in memory, those included that a second lookup takes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.payload.len() + self.0.count * size_of::<TaggedOffset>() + size_of::<Content>()
    }

    pub(crate) fn entry(&self, index: usize) -> Result<Entry, BlockError> {
        let Stored { key, value } = self.0.parts(index)?;
        Ok(Entry {
            key: self.0.payload.slice_ref(key),
            value: value.map(|value| self.0.payload.slice_ref(value)),
        })
    }

    /// The key's entry. A small value is copied, so that it does not keep the whole block in memory.
    pub(crate) fn get(&self, key: &[u8], hash: KeyHash) -> Result<Lookup, BlockError> {
        Ok(match self.0.find(key, hash)? {
            None => Lookup::Absent,
            Some(Stored { value: None, .. }) => Lookup::Entry(None),
            Some(Stored { value: Some(value), .. }) => Lookup::Entry(Some(match value.len() {
                ..=VALUE_BYTES_COPIED_MAX => Bytes::copy_from_slice(value),
                _ => self.0.payload.slice_ref(value),
            })),
        })
    }

    /// The index of the first entry whose key is at least `key`; `count` when there is none.
    pub(crate) fn seek(&self, key: &[u8]) -> Result<usize, BlockError> {
        Ok(self.0.search(key)?.unwrap_or_else(|index| index))
    }
}

impl Content {
    /// The key's entry. The first lookup halves the keys; from the second on a byte of each key's hash stands beside its
    /// offset, and few keys are looked at. With a cache much smaller than the data most blocks see one lookup only.
    fn find(&self, key: &[u8], hash: KeyHash) -> Result<Option<Stored<'_>>, BlockError> {
        let tags = match self.tags.get() {
            Some(tags) => tags,
            None if self.was_searched.swap(true, Relaxed) => self.tags.get_or_init(|| self.tag()),
            None => &[][..],
        };
        if tags.is_empty() {
            return self.search(key)?.ok().map(|index| self.parts(index)).transpose();
        }
        for tagged in tags.iter().filter(|tagged| tagged.tag() == hash.tag()) {
            let stored = self.parts_at(tagged.offset())?;
            if stored.key == key {
                return Ok(Some(stored));
            }
        }
        Ok(None)
    }

    /// The entries' tags; none if an offset is beyond their reach, or an entry cannot be read, which a search will tell.
    fn tag(&self) -> Box<[TaggedOffset]> {
        let tagged = (0..self.count).map(|index| {
            let offset = self.offset(index).ok()?;
            let key = self.parts_at(offset).ok()?.key;
            TaggedOffset::new(KeyHash::new(key).tag(), offset)
        });
        tagged.collect::<Option<Box<[TaggedOffset]>>>().unwrap_or_default()
    }

    /// The index of the key's entry, or the one it would have.
    fn search(&self, key: &[u8]) -> Result<Result<usize, usize>, BlockError> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            match self.parts(middle)?.key.cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(Ok(middle)),
                Ordering::Greater => high = middle,
            }
        }
        Ok(Err(low))
    }

    fn parts(&self, index: usize) -> Result<Stored<'_>, BlockError> {
        self.parts_at(self.offset(index)?)
    }

    fn offset(&self, index: usize) -> Result<usize, BlockError> {
        let place = self.entries_end + index * OFFSET_BYTES;
        Ok(Reader::new(self.payload.get(place..).unwrap_or_default()).u32()? as usize)
    }

    fn parts_at(&self, offset: usize) -> Result<Stored<'_>, BlockError> {
        let mut reader =
            Reader::new(self.payload.get(offset..self.entries_end).ok_or(DecodeError::Truncated)?);
        let key_length = reader.length()?;
        let value = reader.length()?;
        let key = reader.take(key_length)?;
        let value = value.checked_sub(1).map(|length| reader.take(length)).transpose()?;
        Ok(Stored { key, value })
    }
}

impl TaggedOffset {
    /// `None` beyond 24 bits.
    fn new(tag: u8, offset: usize) -> Option<Self> {
        let offset = u32::try_from(offset).ok().filter(|offset| offset >> TAG_SHIFT == 0)?;
        Some(Self(u32::from(tag) << TAG_SHIFT | offset))
    }

    const fn tag(self) -> u8 {
        (self.0 >> TAG_SHIFT) as u8
    }

    const fn offset(self) -> usize {
        (self.0 & ((1 << TAG_SHIFT) - 1)) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: (u64, u64) = (7, 4096);

    fn sealed(payload: &[u8], compression: Compression) -> Bytes {
        let mut out = Vec::new();
        seal(&mut out, payload, Kind::Index, compression, PLACE);
        out.into()
    }

    fn entries(count: usize) -> Vec<u8> {
        let mut builder = DataBuilder::default();
        for number in 0..count {
            let value = format!("value of {number} ").repeat(number % 4);
            builder.push(
                format!("key {number:05}").as_bytes(),
                (number % 5 != 0).then_some(value.as_bytes()),
            );
        }
        builder.finish()
    }

    #[test]
    fn a_block_comes_back_and_only_from_its_place() {
        for compression in [Compression::None, Compression::Lz4] {
            let block = sealed(&[5; 4096], compression);
            assert_eq!(open(&block, Kind::Index, PLACE).unwrap(), vec![5; 4096]);
            for place in [(8, 4096), (7, 0)] {
                assert!(matches!(
                    open(&block, Kind::Index, place),
                    Err(BlockError::Checksum { .. })
                ));
            }
            assert!(matches!(open(&block, Kind::Data, PLACE), Err(BlockError::Malformed(_))));
        }
    }

    #[test]
    fn what_does_not_compress_is_stored_raw() {
        let noise: Vec<u8> = (0..512_u64).flat_map(|i| checksum(i, i, b"").to_le_bytes()).collect();
        assert_eq!(sealed(&noise, Compression::Lz4).len(), noise.len() + TRAILER_BYTES);
        assert!(sealed(&[1; 4096], Compression::Lz4).len() < 100);
    }

    #[test]
    fn offsets_left_out_of_a_compressed_block_come_back() {
        for count in [1, 2, 100, 1000] {
            let payload = entries(count);
            let mut out = Vec::new();
            seal(&mut out, &payload, Kind::Data, Compression::Lz4, PLACE);
            let codec = out.get(out.len() - TRAILER_BYTES).copied();
            assert_eq!(codec, Some(if count < 100 { RAW } else { LZ4_ENTRIES }));
            assert_eq!(open(&out.into(), Kind::Data, PLACE).unwrap(), payload);
        }
    }

    /// A block of `kind` that says it is of `codec` and takes `raw_length` bytes, with a sound checksum.
    fn forged(payload: &[u8], codec: u8, kind: Kind, raw_length: usize) -> Bytes {
        let mut block = lz4_flex::block::compress(payload);
        block.extend_from_slice(&[codec, kind as u8, 0, 0]);
        block.extend_from_slice(&u32::try_from(raw_length).unwrap().to_le_bytes());
        let sum = checksum(PLACE.0, PLACE.1, &block);
        block.extend_from_slice(&sum.to_le_bytes());
        block.into()
    }

    #[test]
    fn compressed_blocks_of_both_codecs_are_read_and_others_are_malformed() {
        let payload = entries(100);
        let (entries, raw_length) = (entries_of(&payload).unwrap(), payload.len());
        let opened =
            |bytes, codec, kind, length| open(&forged(bytes, codec, kind, length), kind, PLACE);
        assert_eq!(opened(&payload, LZ4, Kind::Data, raw_length).unwrap(), payload);
        assert_eq!(opened(entries, LZ4_ENTRIES, Kind::Data, raw_length).unwrap(), payload);
        let (cut, _) = entries.split_at(entries.len() - 1);
        for (bytes, codec, kind, length) in [
            (entries, LZ4_ENTRIES, Kind::Data, raw_length - 1),
            (entries, LZ4_ENTRIES, Kind::Data, raw_length + 1),
            (cut, LZ4_ENTRIES, Kind::Data, raw_length),
            (entries, LZ4_ENTRIES, Kind::Index, raw_length),
            (entries, CODEC_MAX + 1, Kind::Data, raw_length),
        ] {
            let found = opened(bytes, codec, kind, length);
            assert!(matches!(found, Err(BlockError::Malformed(_))), "{codec} {kind:?} {length}");
        }
    }

    #[test]
    fn a_search_finds_the_first_key_not_below() {
        let mut builder = DataBuilder::default();
        for key in ["b", "d", "f"] {
            builder.push(key.as_bytes(), (key != "d").then_some(key.as_bytes()));
        }
        let block = DataBlock::new(builder.finish().into()).unwrap();
        for (key, index) in [("a", 0), ("b", 0), ("c", 1), ("d", 1), ("f", 2), ("g", 3)] {
            assert_eq!(block.seek(key.as_bytes()).unwrap(), index, "{key}");
        }
        assert_eq!(block.entry(1).unwrap(), Entry { key: Bytes::from_static(b"d"), value: None });
        assert!(builder.is_empty());
    }

    #[test]
    fn a_lookup_finds_the_same_with_and_without_tags() {
        let mut builder = DataBuilder::default();
        let (value, key) = (|n: usize| vec![7; n], |n: usize| format!("{n:06}").into_bytes());
        for number in (0..900).step_by(3) {
            builder.push(&key(number), (number % 5 != 0).then(|| value(number)).as_deref());
        }
        let block = DataBlock::new(builder.finish().into()).unwrap();
        for lookup in 0..3 {
            for number in 0..900 {
                let key = key(number);
                let held = (number % 5 != 0).then(|| Bytes::from(value(number)));
                let expected = if number % 3 == 0 { Lookup::Entry(held) } else { Lookup::Absent };
                assert_eq!(block.get(&key, KeyHash::new(&key)).unwrap(), expected, "{number}");
                assert_eq!(block.0.tags.get().is_some(), (lookup, number) > (0, 0));
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_open_without_panic(bytes: Vec<u8>, key: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            let _ = open(&bytes, Kind::Data, PLACE);
            if let Ok(block) = DataBlock::new(bytes) {
                let _ = block.seek(&key);
                for _ in 0..2 {
                    let _ = block.get(&key, KeyHash::new(&key));
                }
                for index in 0..block.count().min(100) {
                    let _ = block.entry(index);
                }
            }
        }
    }
}
