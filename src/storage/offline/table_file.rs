//! One SSTable by its path.

#![warn(clippy::indexing_slicing)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::{OfflineError, Place, PlacedEntry, TableMeta};
use crate::storage::table::block::{self, DataBlock, Kind};
use crate::storage::table::bloom::{self, KeyHash};
use crate::storage::table::reader::{Blocks, Table, read_block, read_footer};
use crate::storage::table::{
    BlockError, BlockHandle, Entry, FORMAT, KeyRange, Properties, ReadError,
};
use crate::storage::vfs::{Vfs, VfsFile};

/// One table, open for reading.
#[derive(Debug, Clone)]
pub struct TableFile {
    table: Arc<Table>,
}

/// What a table is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableInfo {
    /// The file.
    pub file: PathBuf,
    /// The format's version.
    pub format: u32,
    /// The table's number.
    pub number: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of the filter's lines; 0 without a filter.
    pub filter_bytes: u64,
    /// Bytes of the index as stored.
    pub index_bytes: u64,
    /// The least key.
    pub first: Bytes,
    /// The greatest key.
    pub last: Bytes,
    /// The table's account of itself.
    pub properties: Properties,
}

/// An entry and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The key and its value.
    pub entry: Entry,
    /// The number of its data block.
    pub block: usize,
    /// The byte offset of that block.
    pub offset: u64,
}

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockKind {
    /// Entries.
    Data,
    /// The bloom filter.
    Filter,
    /// Where the data blocks are.
    Index,
    /// The table's account of itself.
    Properties,
    /// The end of the file.
    Footer,
    /// All of a table that is no longer part of the store.
    Table,
}

/// A block that is not what was written.
#[derive(Debug, thiserror::Error)]
#[error("{}: block at byte {}", file.display(), handle.offset)]
pub struct BadBlock {
    /// The file.
    pub file: PathBuf,
    /// What should be there.
    pub kind: BlockKind,
    /// The number of the data block, if it is one.
    pub number: Option<usize>,
    /// Where it stands.
    pub handle: BlockHandle,
    /// The keys that it may hold, where they are known; without them it may be any.
    pub keys: Option<Box<KeyRange>>,
    /// What is wrong.
    #[source]
    pub error: BlockError,
}

/// How much of a table is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Footer, index, filter and properties.
    Quick,
    /// All of it.
    Full,
}

/// A table's bloom filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BloomShape {
    /// Bytes of it.
    pub bytes: u64,
    /// Bits of a line; all bits of a key stand in one.
    pub line_bits: u64,
    /// Bits set a key.
    pub probes: u32,
}

impl TableFile {
    /// Opens the table at `path`.
    /// # Errors
    /// [`OfflineError::BadBlock`] where footer, index, filter or properties cannot be read: [`TableFile::verify`] says
    /// more; [`OfflineError::Io`].
    pub fn open(vfs: &dyn Vfs, path: &Path) -> Result<Self, OfflineError> {
        let file = path.to_owned();
        match Table::open(vfs, path) {
            Ok(table) => Ok(Self { table: Arc::new(table) }),
            Err(ReadError::Io { source, .. }) => Err(OfflineError::Io { file, source }),
            Err(ReadError::Corrupt { offset, source, .. }) => {
                let handle = BlockHandle { offset, length: 0 };
                let bad = bad_block(path, BlockKind::Footer, None, handle, source);
                Err(OfflineError::BadBlock(Box::new(bad)))
            }
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.table.path
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.table.number
    }

    /// Whether it is the table that a manifest means.
    pub(super) fn is(&self, meta: &TableMeta) -> bool {
        let table = &self.table;
        (table.number, table.footer_checksum) == (meta.number, meta.footer_checksum)
    }

    /// What the table is made of.
    pub fn info(&self) -> TableInfo {
        let table = &self.table;
        TableInfo {
            file: table.path.clone(),
            format: FORMAT,
            number: table.number,
            bytes: table.length,
            filter_bytes: table.footer.filter.length,
            index_bytes: table.footer.index.length,
            first: table.keys(0).first,
            last: table.index.last().map(|entry| entry.last).unwrap_or_default(),
            properties: table.properties.clone(),
        }
    }

    /// The table's account of itself.
    pub fn properties(&self) -> &Properties {
        &self.table.properties
    }

    /// All entries from `start` on, deletes included. A bad block is told and passed over.
    pub fn entries(&self, start: &[u8]) -> TableEntries {
        let number = self.table.index.block_of(start);
        TableEntries {
            table: Arc::clone(&self.table),
            start: start.to_vec(),
            number,
            block: None,
            entry: 0,
        }
    }

    /// The key's entry and where it stands; `None` when the table has none. The filter is not asked.
    /// # Errors
    /// [`BadBlock`] for the block that would hold it.
    pub fn get(&self, key: &[u8]) -> Result<Option<Located>, BadBlock> {
        match self.entries(key).next() {
            Some(Ok(located)) if located.entry.key == key => Ok(Some(located)),
            Some(Err(bad)) => Err(bad),
            Some(Ok(_)) | None => Ok(None),
        }
    }

    /// The same as a place in the store.
    /// # Errors
    /// Those of [`Self::get`].
    pub fn place(&self, key: &[u8]) -> Result<Option<PlacedEntry>, BadBlock> {
        Ok(self.get(key)?.map(|Located { entry, block, offset }| {
            let place = Place::Table { file: self.table.path.clone(), block, offset };
            PlacedEntry { value: entry.value, place }
        }))
    }

    /// The bloom filter, where there is one.
    pub fn bloom(&self) -> Option<BloomShape> {
        let bits_per_key = u32::try_from(self.table.properties.bloom_bits_per_key);
        let probes = bloom::probes(bits_per_key.unwrap_or(u32::MAX));
        let bytes = self.table.footer.filter.length;
        let line_bits = bloom::LINE_BYTES as u64 * 8;
        (bytes > 0).then_some(BloomShape { bytes, line_bits, probes })
    }

    /// False when the bloom filter says that the key is not there. Always true without a filter.
    pub fn may_contain(&self, key: &[u8]) -> bool {
        self.table.may_contain(KeyHash::new(key))
    }

    /// Every block of the file at `path` that is not what was written; empty for a sound table. Goes on past damage as
    /// far as footer and index lead.
    /// # Errors
    /// [`OfflineError::Io`].
    pub fn verify(vfs: &dyn Vfs, path: &Path, depth: Depth) -> Result<Vec<BadBlock>, OfflineError> {
        verify(vfs, path, depth)
            .map_err(|source| OfflineError::Io { file: path.to_owned(), source })
    }
}

/// The entries of a table, in order.
#[derive(Debug)]
pub struct TableEntries {
    table: Arc<Table>,
    start: Vec<u8>,
    number: usize,
    block: Option<DataBlock>,
    entry: usize,
}

impl TableEntries {
    /// The next entry without its place; a bad block is told and passed over.
    pub(super) fn next_entry(&mut self) -> Option<Result<Entry, BadBlock>> {
        loop {
            match self.step() {
                Ok(Some(entry)) => return Some(Ok(entry)),
                Ok(None) if self.number >= self.table.index.len() => return None,
                Ok(None) => {}
                Err(error) => {
                    let bad = self.bad(error);
                    self.leave_block();
                    return Some(Err(bad));
                }
            }
        }
    }

    /// The next entry of this block; none at its end, and the next block comes then.
    fn step(&mut self) -> Result<Option<Entry>, ReadError> {
        let block = match self.block.take() {
            Some(block) => block,
            None => match self.open_block()? {
                Some(block) => block,
                None => return Ok(None),
            },
        };
        if self.entry == block.count() {
            self.leave_block();
            return Ok(None);
        }
        let entry = block.entry(self.entry);
        let entry = entry.map_err(|error| self.table.corrupt(self.number, error))?;
        self.entry += 1;
        self.block = Some(block);
        Ok(Some(entry))
    }

    fn leave_block(&mut self) {
        self.block = None;
        self.number += 1;
    }

    fn open_block(&mut self) -> Result<Option<DataBlock>, ReadError> {
        let Some(block) = self.table.block(self.number, Blocks::Disk)? else { return Ok(None) };
        self.entry =
            block.seek(&self.start).map_err(|error| self.table.corrupt(self.number, error))?;
        self.start.clear();
        Ok(Some(block))
    }

    fn bad(&self, error: ReadError) -> BadBlock {
        let error = match error {
            ReadError::Corrupt { source, .. } => source,
            ReadError::Io { source, .. } => BlockError::Malformed(source.to_string()),
        };
        bad_data(&self.table, self.number, error)
    }

    fn handle(&self) -> BlockHandle {
        self.table.index.handle(self.number).unwrap_or_default()
    }
}

impl Iterator for TableEntries {
    type Item = Result<Located, BadBlock>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_entry()?.map(|entry| Located {
            entry,
            block: self.number,
            offset: self.handle().offset,
        }))
    }
}

fn bad_data(table: &Table, number: usize, error: BlockError) -> BadBlock {
    let handle = table.index.handle(number).unwrap_or_default();
    let bad = bad_block(&table.path, BlockKind::Data, Some(number), handle, error);
    BadBlock { keys: Some(Box::new(table.keys(number))), ..bad }
}

fn bad_block(
    file: &Path,
    kind: BlockKind,
    number: Option<usize>,
    handle: BlockHandle,
    error: BlockError,
) -> BadBlock {
    BadBlock { file: file.to_owned(), kind, number, handle, keys: None, error }
}

fn verify(vfs: &dyn Vfs, path: &Path, depth: Depth) -> io::Result<Vec<BadBlock>> {
    let file = vfs.open(path)?;
    let length = file.length()?;
    let mut bad = Vec::new();
    let footer = match read_footer(&*file, length)? {
        Ok((footer, _)) => footer,
        Err(error) => {
            let handle = BlockHandle {
                offset: length.saturating_sub(super::super::table::FOOTER_BYTES as u64),
                length,
            };
            bad.push(bad_block(path, BlockKind::Footer, None, handle, error));
            return Ok(bad);
        }
    };
    let parts = [
        (footer.filter, Kind::Filter, BlockKind::Filter),
        (footer.index, Kind::Index, BlockKind::Index),
        (footer.properties, Kind::Properties, BlockKind::Properties),
    ];
    for (handle, kind, shown) in parts {
        // A table without a filter has none to verify.
        if handle != BlockHandle::default()
            && let Err(error) = read_and_open(&*file, length, handle, kind, footer.table)?
        {
            bad.push(bad_block(path, shown, None, handle, error));
        }
    }
    match Table::open(vfs, path) {
        Ok(table) if depth == Depth::Full => verify_data(&*file, &table, &mut bad)?,
        Err(ReadError::Io { source, .. }) => return Err(source),
        // Told above, unless the block holds what its checksum says and still makes no sense.
        Err(ReadError::Corrupt { offset, source, .. }) if bad.is_empty() => {
            let handle = BlockHandle { offset, length: 0 };
            bad.push(bad_block(path, BlockKind::Index, None, handle, source));
        }
        Ok(_) | Err(ReadError::Corrupt { .. }) => {}
    }
    Ok(bad)
}

/// Checks every data block, and that keys ascend over all of them, are where the index says and pass the filter.
fn verify_data(file: &dyn VfsFile, table: &Table, bad: &mut Vec<BadBlock>) -> io::Result<()> {
    let mut before: Option<Bytes> = None;
    let mut entries = 0;
    for (number, index) in table.index.iter().enumerate() {
        let payload = read_and_open(file, table.length, index.handle, Kind::Data, table.number)?;
        let checked = payload.and_then(DataBlock::new).and_then(|block| {
            entries += block.count() as u64;
            check_entries(table, &block, &mut before, &index.last)
        });
        if let Err(error) = checked {
            bad.push(bad_data(table, number, error));
            // The filter and the order say nothing about what could not be read.
            before = Some(index.last.clone());
        }
    }
    if bad.is_empty() && entries != table.properties.entries {
        let reason =
            format!("{entries} entries, but the properties say {}", table.properties.entries);
        let handle = table.footer.properties;
        bad.push(bad_block(
            &table.path,
            BlockKind::Properties,
            None,
            handle,
            BlockError::Malformed(reason),
        ));
    }
    Ok(())
}

fn check_entries(
    table: &Table,
    block: &DataBlock,
    before: &mut Option<Bytes>,
    last: &Bytes,
) -> Result<(), BlockError> {
    for index in 0..block.count() {
        let key = block.entry(index)?.key;
        if before.as_ref().is_some_and(|before| key <= *before) {
            return Err(BlockError::Malformed(format!("entry {index} does not ascend")));
        }
        if !table.may_contain(KeyHash::new(&key)) {
            return Err(BlockError::Malformed(format!("the filter denies entry {index}")));
        }
        *before = Some(key);
    }
    if before.as_ref() == Some(last) {
        return Ok(());
    }
    Err(BlockError::Malformed("its last key is not the one in the index".to_owned()))
}

fn read_and_open(
    file: &dyn VfsFile,
    length: u64,
    handle: BlockHandle,
    kind: Kind,
    table: u64,
) -> io::Result<Result<Bytes, BlockError>> {
    let block = read_block(file, length, handle)?;
    Ok(block.and_then(|block| block::open(&block, kind, (table, handle.offset))))
}
