//! Reads a table: point lookups behind filter and index, and entries in order.

#![warn(clippy::indexing_slicing)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::block::{self, DataBlock, Kind, TRAILER_BYTES};
use super::bloom::{Filter, KeyHash};
use super::index::Index;
use super::{
    BlockError, BlockHandle, Entry, FOOTER_BYTES, Footer, KeyRange, Properties, ReadError,
};
use crate::storage::cache::BlockCache;
use crate::storage::vfs::{Vfs, VfsFile, read_exact_at};

/// Largest block that is read at once: what it takes to check and unpack it, the caller must have time for.
const AT_ONCE_BYTES_MAX: usize = 64 << 10;

/// A table, open: footer, index, filter and properties are in memory, the data blocks on the disk.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) path: PathBuf,
    file: Arc<dyn VfsFile>,
    pub(crate) number: u64,
    pub(crate) length: u64,
    pub(crate) footer: Footer,
    pub(crate) footer_checksum: u64,
    pub(crate) index: Index,
    filter: Option<Filter>,
    pub(crate) properties: Properties,
}

/// What a lookup came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The table's entry for the key: its value, or that it was deleted.
    Entry(Option<Bytes>),
    /// The table has none.
    Absent,
    /// A block is needed that is not in memory.
    NeedsDisk,
}

/// Whether a lookup may read the disk, and what happens to the blocks that it reads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Blocks<'a> {
    /// From the cache, else the disk; they are kept.
    Keep(&'a BlockCache),
    /// From the cache, else the disk; they are not kept.
    Pass(&'a BlockCache),
    /// From the cache, else from what the system has in memory; they are kept.
    AtOnce(&'a BlockCache),
    /// From the disk alone.
    Disk,
}

impl Table {
    pub(crate) fn open(vfs: &dyn Vfs, path: &Path) -> Result<Self, ReadError> {
        let io =
            |source| ReadError::Io { file: path.to_owned(), keys: KeyRange::default(), source };
        let corrupt = |offset, source| ReadError::Corrupt {
            file: path.to_owned(),
            offset,
            keys: KeyRange::default(),
            source,
        };
        let file = vfs.open(path).map_err(io)?;
        let length = file.length().map_err(io)?;
        let (footer, footer_checksum) =
            read_footer(&*file, length).map_err(io)?.map_err(|error| corrupt(0, error))?;
        let read = |handle: BlockHandle, kind| {
            let place = (footer.table, handle.offset);
            let block = read_block(&*file, length, handle).map_err(io)?;
            block
                .and_then(|block| block::open(&block, kind, place))
                .map_err(|error| corrupt(handle.offset, error))
        };
        let properties = Properties::decode(&read(footer.properties, Kind::Properties)?)
            .map_err(|error| corrupt(footer.properties.offset, error))?;
        let index = Index::decode(&read(footer.index, Kind::Index)?)
            .map_err(|error| corrupt(footer.index.offset, error))?;
        let filter = match footer.filter.length {
            0 => None,
            _ => Filter::new(
                read(footer.filter, Kind::Filter)?,
                u32::try_from(properties.bloom_bits_per_key).unwrap_or(u32::MAX),
            ),
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            number: footer.table,
            length,
            footer,
            footer_checksum,
            index,
            filter,
            properties,
        })
    }

    /// False when the key is certainly not in the table.
    pub(crate) fn may_contain(&self, hash: KeyHash) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_contain(hash))
    }

    /// Bytes of filter and index in memory, about.
    pub(crate) fn pinned_bytes(&self) -> usize {
        self.index.bytes_pinned() + self.filter.as_ref().map_or(0, Filter::bytes)
    }

    pub(crate) fn get(
        &self,
        key: &[u8],
        hash: KeyHash,
        blocks: Blocks<'_>,
    ) -> Result<Lookup, ReadError> {
        if !self.may_contain(hash) {
            return Ok(Lookup::Absent);
        }
        let number = self.index.block_of(key);
        if number == self.index.len() {
            return Ok(Lookup::Absent);
        }
        let Some(block) = self.block(number, blocks)? else { return Ok(Lookup::NeedsDisk) };
        block.get(key, hash).map_err(|error| self.corrupt(number, error))
    }

    /// A data block; `None` when it would have to be read and must not.
    pub(crate) fn block(
        &self,
        number: usize,
        blocks: Blocks<'_>,
    ) -> Result<Option<DataBlock>, ReadError> {
        let Some(handle) = self.index.handle(number) else {
            return Ok(None);
        };
        let cache = match blocks {
            Blocks::Keep(cache) | Blocks::Pass(cache) | Blocks::AtOnce(cache) => Some(cache),
            Blocks::Disk => None,
        };
        if let Some(block) = cache.and_then(|cache| cache.get(self.number, handle.offset)) {
            return Ok(Some(block));
        }
        if let Blocks::AtOnce(cache) = blocks {
            let block = self.read_at_once(handle);
            if let Some(block) = &block {
                cache.insert(self.number, handle.offset, block.clone());
            }
            return Ok(block);
        }
        // A flip on the way from the disk passes: a block is read twice before it is called corrupt.
        let payload = self.read_data(number, handle).or_else(|_| self.read_data(number, handle))?;
        let malformed = |error| self.corrupt(number, error);
        let block = DataBlock::new(payload).map_err(malformed)?;
        if let Blocks::Keep(cache) = blocks {
            cache.insert(self.number, handle.offset, block.clone());
        }
        Ok(Some(block))
    }

    /// What is wrong with the block of this number.
    pub(crate) fn corrupt(&self, number: usize, source: BlockError) -> ReadError {
        let offset = self.index.handle(number).map_or(0, |handle| handle.offset);
        ReadError::Corrupt { file: self.path.clone(), offset, keys: self.keys(number), source }
    }

    /// The keys that the block of this number may hold.
    pub(crate) fn keys(&self, number: usize) -> KeyRange {
        let before = number.checked_sub(1).and_then(|number| self.index.get(number));
        let first =
            before.map_or_else(|| self.index.first_key().clone(), |before| successor(&before.last));
        KeyRange { first, last: self.index.get(number).map(|entry| entry.last).unwrap_or_default() }
    }

    /// A data block that is in the system's memory. One that turns out damaged is left to whoever may read it twice.
    fn read_at_once(&self, handle: BlockHandle) -> Option<DataBlock> {
        let bytes = usize::try_from(handle.length).ok()?.checked_add(TRAILER_BYTES)?;
        if AT_ONCE_BYTES_MAX < bytes {
            return None;
        }
        let mut block = vec![0; bytes];
        if !self.file.read_at_once(&mut block, handle.offset) {
            return None;
        }
        let payload = block::open(&block.into(), Kind::Data, (self.number, handle.offset)).ok()?;
        DataBlock::new(payload).ok()
    }

    fn read_data(&self, number: usize, handle: BlockHandle) -> Result<Bytes, ReadError> {
        let io =
            |source| ReadError::Io { file: self.path.clone(), keys: self.keys(number), source };
        let block = read_block(&*self.file, self.length, handle).map_err(io)?;
        let place = (self.number, handle.offset);
        block
            .and_then(|block| block::open(&block, Kind::Data, place))
            .map_err(|source| self.corrupt(number, source))
    }
}

/// The least key above `key`.
pub(crate) fn successor(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// Walks a table's entries from a key on.
#[derive(Debug)]
pub(crate) struct Cursor {
    table: Arc<Table>,
    /// Where the first block is entered.
    start: Bytes,
    number: usize,
    block: Option<DataBlock>,
    entry: usize,
}

impl Cursor {
    /// Before the first entry whose key is at least `start`.
    pub(crate) fn new(table: Arc<Table>, start: Bytes) -> Self {
        let number = table.index.block_of(&start);
        Self { table, start, number, block: None, entry: 0 }
    }

    /// The next entry. After an error it goes on behind the keys that cannot be read.
    #[inline]
    pub(crate) fn next(&mut self, blocks: Blocks<'_>) -> Result<Option<Entry>, Box<ReadError>> {
        loop {
            if let Some(block) = &self.block
                && self.entry < block.count()
            {
                self.entry += 1;
                return match block.entry(self.entry - 1) {
                    Ok(entry) => Ok(Some(entry)),
                    Err(error) => Err(Box::new(self.leave_corrupt(error))),
                };
            }
            if !self.next_block(blocks)? {
                return Ok(None);
            }
        }
    }

    /// Goes on in the next block; false behind the last.
    #[inline(never)]
    fn next_block(&mut self, blocks: Blocks<'_>) -> Result<bool, Box<ReadError>> {
        if self.block.is_some() {
            self.leave_block();
        }
        if self.number == self.table.index.len() {
            return Ok(false);
        }
        if let Err(error) = self.enter_block(blocks) {
            self.leave_block();
            return Err(Box::new(error));
        }
        Ok(self.block.is_some())
    }

    fn enter_block(&mut self, blocks: Blocks<'_>) -> Result<(), ReadError> {
        let start = std::mem::take(&mut self.start);
        let block = self.table.block(self.number, blocks)?;
        let entry = block.as_ref().map_or(Ok(0), |block| block.seek(&start));
        self.entry = entry.map_err(|error| self.table.corrupt(self.number, error))?;
        self.block = block;
        Ok(())
    }

    fn leave_block(&mut self) {
        self.block = None;
        self.number += 1;
    }

    /// The entry just passed makes no sense, and so no other of the block: what was given of it before is not lost.
    #[cold]
    fn leave_corrupt(&mut self, error: BlockError) -> ReadError {
        let mut error = self.table.corrupt(self.number, error);
        let before = self.entry.checked_sub(2);
        let before = before.and_then(|before| self.block.as_ref()?.entry(before).ok());
        if let (Some(before), ReadError::Corrupt { keys, .. }) = (before, &mut error) {
            keys.first = successor(&before.key).min(keys.last.clone());
        }
        self.leave_block();
        error
    }
}

/// The footer at the end of a file of this length, and its checksum.
pub(crate) fn read_footer(
    file: &dyn VfsFile,
    length: u64,
) -> io::Result<Result<(Footer, u64), BlockError>> {
    let Some(offset) = length.checked_sub(FOOTER_BYTES as u64) else {
        return Ok(Err(BlockError::Malformed(format!(
            "{length} bytes are too few for an SSTable"
        ))));
    };
    let mut bytes = [0; FOOTER_BYTES];
    read_exact_at(file, &mut bytes, offset)?;
    Ok(Footer::decode(&bytes, offset))
}

/// A block with its trailer, unchecked. A handle that leads out of the file is an error before anything is allocated.
pub(crate) fn read_block(
    file: &dyn VfsFile,
    length: u64,
    handle: BlockHandle,
) -> io::Result<Result<Bytes, BlockError>> {
    let bytes = handle.length.checked_add(TRAILER_BYTES as u64);
    let inside =
        bytes.and_then(|bytes| handle.offset.checked_add(bytes)).is_some_and(|end| end <= length);
    let (true, Some(Ok(bytes))) = (inside, bytes.map(usize::try_from)) else {
        return Ok(Err(BlockError::Malformed(format!("leads out of the file of {length} bytes"))));
    };
    let mut block = vec![0; bytes];
    read_exact_at(file, &mut block, handle.offset)?;
    Ok(Ok(block.into()))
}

#[cfg(test)]
mod tests {
    use super::super::builder::{Builder, TableOptions};
    use super::*;
    use crate::storage::log::LogPosition;
    use crate::storage::options::Options;
    use crate::storage::vfs::simulated::Disk;

    fn table(keys: std::ops::Range<u32>) -> Arc<Table> {
        let disk = Disk::new(0);
        let options = Options { block_bytes: 128, ..Options::default() };
        let options = TableOptions::new(&options, 0, LogPosition::ZERO);
        let mut builder =
            Builder::create(Arc::new(disk.clone()), Path::new(""), 9, options).unwrap();
        for key in keys {
            let value = format!("value of {key}");
            builder
                .add(format!("{key:05}").as_bytes(), (key % 5 != 0).then_some(value.as_bytes()))
                .unwrap();
        }
        let written = builder.finish().unwrap();
        let table = Table::open(&disk, Path::new("00000009.sst")).unwrap();
        assert_eq!((table.length, table.footer_checksum), (written.bytes, written.footer_checksum));
        assert_eq!(table.properties, written.properties);
        Arc::new(table)
    }

    #[test]
    fn every_key_is_found_and_no_other() {
        let table = table(0..500);
        let get = |key: &str| {
            table.get(key.as_bytes(), KeyHash::new(key.as_bytes()), Blocks::Disk).unwrap()
        };
        assert!(table.index.len() > 50);
        for key in 0..500 {
            let value = (key % 5 != 0).then(|| format!("value of {key}").into());
            assert_eq!(get(&format!("{key:05}")), Lookup::Entry(value));
        }
        for key in ["", "0", "00000x", "99999"] {
            assert_eq!(get(key), Lookup::Absent, "{key}");
        }
    }

    #[test]
    fn a_cursor_walks_from_any_key_to_the_end() {
        let table = table(0..100);
        for start in [0_u32, 1, 42, 99, 100] {
            let mut cursor = Cursor::new(Arc::clone(&table), format!("{start:05}").into());
            for key in start..100 {
                assert_eq!(cursor.next(Blocks::Disk).unwrap().unwrap().key, format!("{key:05}"));
            }
            assert_eq!(cursor.next(Blocks::Disk).unwrap(), None);
        }
    }

    #[test]
    fn a_lookup_that_may_not_read_says_so_once() {
        let (table, cache) = (table(0..10), BlockCache::new(1 << 20));
        let get = |blocks| table.get(b"00001", KeyHash::new(b"00001"), blocks).unwrap();
        assert_eq!(get(Blocks::AtOnce(&cache)), Lookup::NeedsDisk);
        let found = get(Blocks::Keep(&cache));
        assert_eq!(get(Blocks::AtOnce(&cache)), found);
    }
}
