//! Builds tables from sorted entries.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::OfflineError;
use crate::storage::directory::table_name;
use crate::storage::log::LogPosition;
use crate::storage::options::{Compression, Options};
use crate::storage::table::Properties;
use crate::storage::table::builder::{self, Builder};
use crate::storage::vfs::Vfs;

/// How tables are built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableOptions {
    /// Bytes of entries aimed at in a data block.
    pub block_bytes: usize,
    /// How data blocks are stored.
    pub compression: Compression,
    /// Bits of bloom filter a key; 0 for none.
    pub bloom_bits_per_key: u32,
    /// Bytes aimed at in a table; the next entry begins another.
    pub table_bytes: u64,
}

/// A table that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenTable {
    /// Its path.
    pub file: PathBuf,
    /// Its number.
    pub number: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// The least key.
    pub first: Bytes,
    /// The greatest key.
    pub last: Bytes,
    /// Its account of itself.
    pub properties: Properties,
}

/// Writes sorted entries into as many tables as they fill, `00000001.sst` and so on.
#[derive(Debug)]
pub struct TableBuilder {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    options: TableOptions,
    level: u64,
    newest: LogPosition,
    next_number: u64,
    before: Option<Bytes>,
    builder: Option<Builder>,
    written: Vec<WrittenTable>,
}

impl Default for TableOptions {
    fn default() -> Self {
        let Options { block_bytes, compression, bloom_bits_per_key, table_bytes, .. } =
            Options::default();
        Self { block_bytes, compression, bloom_bits_per_key, table_bytes }
    }
}

impl TableBuilder {
    /// Builds into the directory `dir`, which must exist, under the numbers from 1 on; a table that is there under one
    /// of them is replaced.
    pub fn new(vfs: Arc<dyn Vfs>, dir: &Path, options: TableOptions) -> Self {
        Self {
            vfs,
            dir: dir.to_owned(),
            options,
            level: 0,
            newest: LogPosition::ZERO,
            next_number: 1,
            before: None,
            builder: None,
            written: Vec::new(),
        }
    }

    /// Counts on from this number instead.
    #[must_use]
    pub const fn numbered_from(mut self, number: u64) -> Self {
        self.next_number = number;
        self
    }

    /// What the tables say of their age: see [`Properties`].
    #[must_use]
    pub const fn aged(mut self, level: u64, newest: LogPosition) -> Self {
        (self.level, self.newest) = (level, newest);
        self
    }

    /// Adds an entry (`None`: a delete).
    /// # Errors
    /// [`OfflineError::Order`] unless keys ascend strictly; [`OfflineError::Write`].
    pub fn add(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), OfflineError> {
        if let Some(before) = self.before.as_ref().filter(|before| *key <= ***before) {
            return Err(OfflineError::Order {
                key: Bytes::copy_from_slice(key),
                before: before.clone(),
            });
        }
        if self.builder.as_ref().is_some_and(|builder| self.options.table_bytes <= builder.bytes())
        {
            self.finish_table()?;
        }
        let file = self.dir.join(table_name(self.next_number));
        let write = |source| OfflineError::Write { file: file.clone(), source };
        let mut builder = match self.builder.take() {
            Some(builder) => builder,
            None => self.create().map_err(write)?,
        };
        builder.add(key, value).map_err(write)?;
        self.builder = Some(builder);
        self.before = Some(Bytes::copy_from_slice(key));
        Ok(())
    }

    /// Writes what is left, durably. Without entries there is no table.
    /// # Errors
    /// [`OfflineError::Write`].
    pub fn finish(mut self) -> Result<Vec<WrittenTable>, OfflineError> {
        self.finish_table()?;
        let synced = self.vfs.sync_dir(&self.dir);
        synced.map_err(|source| OfflineError::Write { file: self.dir.clone(), source })?;
        Ok(std::mem::take(&mut self.written))
    }

    fn create(&self) -> std::io::Result<Builder> {
        let TableOptions { block_bytes, compression, bloom_bits_per_key, .. } = self.options;
        let (level, newest) = (self.level, self.newest);
        let options =
            builder::TableOptions { block_bytes, compression, bloom_bits_per_key, level, newest };
        Builder::create(Arc::clone(&self.vfs), &self.dir, self.next_number, options)
    }

    fn finish_table(&mut self) -> Result<(), OfflineError> {
        let Some(builder) = self.builder.take() else { return Ok(()) };
        let file = self.dir.join(table_name(self.next_number));
        let finished = builder.finish();
        let written =
            finished.map_err(|source| OfflineError::Write { file: file.clone(), source })?;
        self.next_number += 1;
        let builder::Written { number, bytes, first, last, properties, .. } = written;
        self.written.push(WrittenTable { file, number, bytes, first, last, properties });
        Ok(())
    }
}

impl Drop for TableBuilder {
    /// Tables that were not finished leave nothing behind.
    fn drop(&mut self) {
        if let Some(builder) = self.builder.take() {
            // It has a temporary name; where that cannot be removed, it does no harm.
            let _ = builder.abandon();
        }
        for table in &self.written {
            // An unfinished lot of tables is none; the names are free again as far as the disk allows.
            let _ = self.vfs.remove(&table.file);
        }
    }
}
