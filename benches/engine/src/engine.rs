//! What a storage engine must do to be measured, and the three that do it.
//!
//! Each engine takes its settings from the same [`Knobs`]; what they become is in its file and, as a table, in the
//! README. Bytes that are read are folded into a [`Sink`], so that no engine gets away with not fetching them.

#[cfg(feature = "fjall")]
mod fjall;
mod kvkit;
#[cfg(feature = "rocksdb")]
mod rocksdb;

use std::fmt;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// Settings that are the same for each engine and row.
pub(crate) const MEMTABLE_BYTES: usize = 64 << 20;
/// Memtables in all: one that takes writes, the others on their way to the disk.
pub(crate) const MEMTABLES: usize = 4;
pub(crate) const BLOOM_BITS_PER_KEY: u8 = 10;
pub(crate) const BLOCK_BYTES: usize = 4 << 10;

/// An engine that can be measured.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Name {
    Kvkit,
    Rocksdb,
    Fjall,
}

/// When a write returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// After `write(2)`: it survives the process.
    KillSafe,
    /// After `fdatasync(2)`: it survives the machine.
    Synced,
}

/// How data blocks are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Compression {
    None,
    Lz4,
}

/// Settings that differ from row to row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Knobs {
    /// Bytes of the block cache.
    pub(crate) cache_bytes: u64,
    pub(crate) durability: Durability,
    pub(crate) compression: Compression,
}

/// Takes what is read: how much, and a sum over it that does not depend on the order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sink {
    pub(crate) found: u64,
    pub(crate) checksum: u64,
}

/// An open store of one engine. All of it may be called from several threads at once.
pub(crate) trait Engine: Sync {
    /// Gives a key a value, as durably as the knobs say.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()>;

    /// Takes a key's value away, as durably as the knobs say.
    fn delete(&self, key: &[u8]) -> Result<()>;

    /// The key's value, into the sink; whether there is one.
    fn get(&self, key: &[u8], sink: &mut Sink) -> Result<bool>;

    /// At most `entries_max` entries from `start` on, into the sink.
    fn seek(&self, start: &[u8], entries_max: usize, sink: &mut Sink) -> Result<()>;

    /// All entries in order, into the sink.
    fn scan(&self, sink: &mut Sink) -> Result<()>;

    /// Waits until everything written is in tables and no compaction is left to do; since when that is so.
    fn settle(&self) -> Result<Instant>;

    /// A clean stop.
    fn close(self: Box<Self>) -> Result<()>;
}

/// Opens the engine's store in an existing directory; founds one where there is none.
pub(crate) fn open(name: Name, dir: &Path, knobs: Knobs) -> Result<Box<dyn Engine>> {
    Ok(match name {
        Name::Kvkit => Box::new(kvkit::Kvkit::open(dir, knobs)?),
        #[cfg(feature = "rocksdb")]
        Name::Rocksdb => Box::new(rocksdb::Rocksdb::open(dir, knobs)?),
        #[cfg(not(feature = "rocksdb"))]
        Name::Rocksdb => anyhow::bail!("built without RocksDB"),
        #[cfg(feature = "fjall")]
        Name::Fjall => Box::new(fjall::Fjall::open(dir, knobs)?),
        #[cfg(not(feature = "fjall"))]
        Name::Fjall => anyhow::bail!("built without fjall"),
    })
}

impl Sink {
    pub(crate) fn take_value(&mut self, value: &[u8]) {
        self.found += 1;
        self.checksum = self.checksum.wrapping_add(xxh3_64(value));
    }

    pub(crate) fn take_entry(&mut self, key: &[u8], value: &[u8]) {
        self.take_value(value);
        self.checksum = self.checksum.wrapping_add(xxh3_64(key));
    }

    pub(crate) const fn merge(&mut self, other: Self) {
        self.found += other.found;
        self.checksum = self.checksum.wrapping_add(other.checksum);
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvkit => "kvkit",
            Self::Rocksdb => "RocksDB",
            Self::Fjall => "fjall",
        })
    }
}
