//! Writes a table, entry by entry, in bounded memory: a block, the index, and a hash a key.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::block::{DataBuilder, Kind, TRAILER_BYTES, seal};
use super::bloom::{self, KeyHash};
use super::{BlockHandle, FOOTER_BYTES, Footer, Properties};
use crate::encoding::{put_bytes, put_varint};
use crate::storage::directory::table_name;
use crate::storage::log::LogPosition;
use crate::storage::options::{Compression, Options};
use crate::storage::vfs::{Vfs, VfsFile, temporary};

/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 256 << 10;

/// Most data blocks in a row that are not tried to be compressed, after others did not gain by it.
const UNTRIED_MAX: u32 = 15;

/// How a table is written.
#[derive(Debug, Clone)]
pub(crate) struct TableOptions {
    pub(crate) block_bytes: usize,
    pub(crate) compression: Compression,
    pub(crate) bloom_bits_per_key: u32,
    pub(crate) level: u64,
    pub(crate) newest: LogPosition,
}

/// A table that was written, synced, and has its name; the directory is not synced yet. One without entries, for holes
/// alone, has no first and last key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) number: u64,
    pub(crate) bytes: u64,
    pub(crate) footer_checksum: u64,
    pub(crate) first: Bytes,
    pub(crate) last: Bytes,
    pub(crate) properties: Properties,
}

/// A table being written under a temporary name.
#[derive(Debug)]
pub(crate) struct Builder {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    file: Arc<dyn VfsFile>,
    number: u64,
    options: TableOptions,
    /// Sealed blocks not yet written; they start at `written`.
    out: Vec<u8>,
    written: u64,
    block: DataBuilder,
    trials: Trials,
    index: Vec<u8>,
    hashes: Vec<KeyHash>,
    first: Option<Bytes>,
    last: Vec<u8>,
    properties: Properties,
}

/// Which data blocks are tried to be compressed: each that gains nothing doubles how many are left alone behind it, and
/// one that gains begins anew. Values that hardly compress mostly have neighbours like them, and trying costs as much as
/// all else that is done to a block.
#[derive(Debug, Default)]
struct Trials {
    untried: u32,
    left: u32,
}

impl Trials {
    /// Whether the next block is tried.
    const fn next(&mut self) -> bool {
        let is_tried = self.left == 0;
        self.left = self.left.saturating_sub(1);
        is_tried
    }

    /// What came of it.
    fn tried(&mut self, gained: bool) {
        self.untried = if gained { 0 } else { (2 * self.untried + 1).min(UNTRIED_MAX) };
        self.left = self.untried;
    }
}

impl TableOptions {
    pub(crate) const fn new(options: &Options, level: u64, newest: LogPosition) -> Self {
        let Options { block_bytes, compression, bloom_bits_per_key, .. } = *options;
        Self { block_bytes, compression, bloom_bits_per_key, level, newest }
    }
}

impl Builder {
    pub(crate) fn create(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        number: u64,
        options: TableOptions,
    ) -> io::Result<Self> {
        let file = vfs.create(&temporary(dir, &table_name(number)))?;
        let properties = Properties {
            bloom_bits_per_key: u64::from(options.bloom_bits_per_key),
            level: options.level,
            newest: options.newest,
            ..Properties::default()
        };
        Ok(Self {
            vfs,
            dir: dir.to_owned(),
            file,
            number,
            options,
            out: Vec::new(),
            written: 0,
            block: DataBuilder::default(),
            trials: Trials::default(),
            index: Vec::new(),
            hashes: Vec::new(),
            first: None,
            last: Vec::new(),
            properties,
        })
    }

    /// Adds an entry. Keys must ascend strictly.
    pub(crate) fn add(&mut self, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
        assert!(
            self.first.is_none() || self.last.as_slice() < key,
            "keys must ascend within a table"
        );
        if self.first.is_none() {
            self.first = Some(Bytes::copy_from_slice(key));
        }
        self.block.push(key, value);
        self.last.clear();
        self.last.extend_from_slice(key);
        self.hashes.push(KeyHash::new(key));
        self.properties.entries += 1;
        self.properties.deletes += u64::from(value.is_none());
        self.properties.key_bytes += key.len() as u64;
        self.properties.value_bytes += value.map_or(0, <[u8]>::len) as u64;
        if self.block.bytes() < self.options.block_bytes { Ok(()) } else { self.finish_block() }
    }

    /// The last key so far; none in front of all others.
    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last
    }

    /// Bytes of the file so far, about.
    pub(crate) const fn bytes(&self) -> u64 {
        self.written + self.out.len() as u64 + self.block.bytes() as u64
    }

    /// Writes what is left, syncs, and gives the file its name. The caller syncs the directory.
    pub(crate) fn finish(mut self) -> io::Result<Written> {
        let first = self.first.clone().unwrap_or_default();
        if !self.block.is_empty() {
            self.finish_block()?;
        }
        let filter = bloom::build(&self.hashes, self.options.bloom_bits_per_key);
        let filter = if filter.is_empty() {
            BlockHandle::default()
        } else {
            self.put_block(&filter, Kind::Filter)
        };
        let mut index = Vec::new();
        put_bytes(&mut index, &first);
        put_varint(&mut index, self.properties.data_blocks);
        index.extend_from_slice(&self.index);
        let index = self.put_block(&index, Kind::Index);
        let properties = self.put_block(&self.properties.encode(), Kind::Properties);
        let offset = self.offset();
        let footer = Footer { table: self.number, filter, index, properties }.encode(offset);
        self.out.extend_from_slice(&footer);
        self.write_out()?;
        self.file.sync_data()?;
        let name = table_name(self.number);
        self.vfs.rename(&temporary(&self.dir, &name), &self.dir.join(name))?;
        let footer_checksum = footer.last_chunk().map_or(0, |sum| u64::from_le_bytes(*sum));
        Ok(Written {
            number: self.number,
            bytes: offset + FOOTER_BYTES as u64,
            footer_checksum,
            first,
            last: self.last.into(),
            properties: self.properties,
        })
    }

    /// Gives the table up, and the space it took.
    pub(crate) fn abandon(self) -> io::Result<()> {
        self.vfs.remove(&temporary(&self.dir, &table_name(self.number)))
    }

    const fn offset(&self) -> u64 {
        self.written + self.out.len() as u64
    }

    fn finish_block(&mut self) -> io::Result<()> {
        let payload = self.block.finish();
        self.properties.raw_bytes += payload.len() as u64;
        self.properties.data_blocks += 1;
        let handle = self.put_block(&payload, Kind::Data);
        put_bytes(&mut self.index, &self.last);
        put_varint(&mut self.index, handle.offset);
        put_varint(&mut self.index, handle.length);
        if self.out.len() < WRITE_BYTES { Ok(()) } else { self.write_out() }
    }

    fn put_block(&mut self, payload: &[u8], kind: Kind) -> BlockHandle {
        // A filter's bits are chance, the properties few: only these two gain from compression.
        let compression = match kind {
            Kind::Data if !self.trials.next() => Compression::None,
            Kind::Data | Kind::Index => self.options.compression,
            Kind::Filter | Kind::Properties => Compression::None,
        };
        let offset = self.offset();
        let length = seal(&mut self.out, payload, kind, compression, (self.number, offset));
        if kind == Kind::Data && compression != Compression::None {
            self.trials.tried(length < payload.len() as u64);
        }
        debug_assert_eq!(self.offset(), offset + length + TRAILER_BYTES as u64);
        BlockHandle { offset, length }
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.file.write_at(&self.out, self.written)?;
        self.written += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` a block that gains by compression, `-` one that does not; what is tried of them, and `.` for what is not.
    #[track_caller]
    fn check(blocks: &str, expected: &str) {
        let mut trials = Trials::default();
        let tried = blocks.chars().map(|block| {
            if !trials.next() {
                return '.';
            }
            trials.tried(block == '+');
            block
        });
        assert_eq!(tried.collect::<String>(), expected);
    }

    #[test]
    fn blocks_that_do_not_compress_are_tried_ever_less_until_one_does() {
        check("++++", "++++");
        check("--------", "-.-...-.");
        check("-+-+++", "-.-...");
        check("---+++++", "-.-...++");
        check(&"-".repeat(64), "-.-...-.......-...............-...............-...............-.");
    }
}
