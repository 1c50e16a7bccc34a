//! What a store has and did, for people and metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::Store;
use crate::storage::log::LogPosition;
use crate::storage::options::SyncMode;

/// Events counted since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) flushes: AtomicU64,
    pub(super) compactions: AtomicU64,
    pub(super) fsyncs: AtomicU64,
}

/// A store's figures at one moment. Counts of events are since the start.
#[derive(Debug, Clone, Serialize)]
pub struct Stats {
    /// When a write counts as durable.
    pub sync: SyncMode,
    /// Tables, each level's in order.
    pub tables_by_level: Vec<u64>,
    /// Bytes of all tables on disk.
    pub table_bytes: u64,
    /// Tables that cannot be read.
    pub tables_damaged: u64,
    /// Bytes of the log that a start would replay.
    pub log_bytes: u64,
    /// Bytes in memtables, frozen ones included.
    pub memtable_bytes: u64,
    /// Memtables that wait for their flush.
    pub memtables_frozen: u64,
    /// Bytes of filters and indexes in memory.
    pub pinned_bytes: u64,
    /// Bytes in the block cache.
    pub cache_bytes: u64,
    /// Blocks found in the cache.
    pub cache_hits: u64,
    /// Blocks not found there.
    pub cache_misses: u64,
    /// Position of the last write.
    pub appended: LogPosition,
    /// Up to where writes are as durable as the mode promises.
    pub durable: LogPosition,
    /// Memtables flushed.
    pub flushes: u64,
    /// Merges finished.
    pub compactions: u64,
    /// `fdatasync` calls on the log.
    pub fsyncs: u64,
    /// Whether the disk is full, and only the reserve left.
    pub disk_full: bool,
    /// Why the store takes no more writes, if so.
    pub failed: Option<String>,
}

impl Store {
    /// Keys that begin with this byte, about: one that was written again counts more than once until it is merged.
    pub fn keys_estimate(&self, keyspace: u8) -> u64 {
        let memory = self.memory();
        let memtables = memory.frozen.iter().map(|frozen| &frozen.table).chain([&memory.active]);
        let in_memory: u64 = memtables.map(|table| table.entries_in(keyspace)).sum();
        in_memory + memory.levels.tables().map(|live| live.keys_estimate(keyspace)).sum::<u64>()
    }

    /// The figures of this moment.
    pub fn stats(&self) -> Stats {
        let memory = self.memory();
        let mut tables_by_level = Vec::new();
        let (mut table_bytes, mut tables_damaged) = (0, 0);
        for live in memory.levels.tables() {
            let level = usize::try_from(live.meta.level).unwrap_or(usize::MAX).min(u8::MAX.into());
            tables_by_level.resize(tables_by_level.len().max(level + 1), 0);
            tables_by_level[level] += 1;
            table_bytes += live.meta.bytes;
            tables_damaged += u64::from(live.table.is_err());
        }
        let memtables = || memory.frozen.iter().map(|frozen| &frozen.table).chain([&memory.active]);
        let (cache_hits, cache_misses) = self.cache.hits_and_misses();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            sync: self.options.sync,
            tables_by_level,
            table_bytes,
            tables_damaged,
            log_bytes: memory.buffer.appended().get() - memory.floor.get(),
            memtable_bytes: memtables().map(|table| table.bytes() as u64).sum(),
            memtables_frozen: memory.frozen.len() as u64,
            pinned_bytes: memory.levels.pinned_bytes(),
            cache_bytes: self.cache.bytes(),
            cache_hits,
            cache_misses,
            appended: memory.buffer.appended(),
            durable: self.durable(),
            flushes: count(&self.counters.flushes),
            compactions: count(&self.counters.compactions),
            fsyncs: count(&self.counters.fsyncs),
            disk_full: self.space.is_full(),
            failed: self.failure.get().cloned(),
        }
    }
}
