//! What a store has and did, for people and metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde::Serialize;

use super::{Store, lock};
use crate::storage::levels::{Levels, Live};
use crate::storage::log::LogPosition;
use crate::storage::options::SyncMode;
use crate::storage::table::{KeyRange, ReadError};

/// Most bad blocks remembered by their place; more are found again when they are read.
const BAD_BLOCKS_MAX: usize = 1024;

/// Events counted since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) writes: AtomicU64,
    pub(super) flushes: AtomicU64,
    pub(super) compactions: AtomicU64,
    pub(super) fsyncs: AtomicU64,
}

/// The blocks that reads and merges found bad since the start, by file and offset.
#[derive(Debug, Default)]
pub(super) struct BadBlocks {
    found: Mutex<BTreeMap<(PathBuf, u64), KeyRange>>,
}

/// Keys that cannot be read from one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnreadableKeys {
    /// The table.
    pub file: PathBuf,
    /// Byte offset of the block, or of what else is damaged; 0 where the table was set aside.
    pub offset: u64,
    /// The least key that cannot be read.
    pub first: Bytes,
    /// The greatest.
    pub last: Bytes,
    /// Whether the table is set aside: [`Store::mend`] takes it from here.
    pub is_lost: bool,
}

/// A damaged table that a merge put away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetAside {
    /// Where the file is now.
    pub file: PathBuf,
    /// The keys that were lost with it; none where all of them could still be read.
    pub lost: Vec<KeyRange>,
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
    /// What cannot be read: tables that are damaged as a whole, blocks that were found bad when they were read, and what
    /// was lost with tables that are set aside by now.
    pub unreadable: Vec<UnreadableKeys>,
    /// Damaged tables set aside since the start.
    pub set_aside: Vec<SetAside>,
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

impl BadBlocks {
    /// Remembers what could not be read, if it was damage.
    pub(super) fn note(&self, error: &ReadError) {
        let ReadError::Corrupt { file, offset, keys, .. } = error else { return };
        let mut found = lock(&self.found);
        if found.len() < BAD_BLOCKS_MAX {
            found.insert((file.clone(), *offset), keys.clone());
        }
    }

    /// Forgets a file that is no longer part of the store.
    pub(super) fn forget(&self, gone: &Path) {
        lock(&self.found).retain(|(file, _), _| file != gone);
    }
}

impl Store {
    /// Keys that begin with this byte, about: one that was written again counts more than once until it is merged.
    pub fn keys_estimate(&self, keyspace: u8) -> u64 {
        let memory = self.memory();
        let memtables = memory.frozen.iter().map(|frozen| &frozen.table).chain([&memory.active]);
        let in_memory: u64 = memtables.map(|table| table.entries_in(keyspace)).sum();
        in_memory + memory.levels.tables().map(|live| live.keys_estimate(keyspace)).sum::<u64>()
    }

    /// Damaged tables that merges have set aside since the start, in that order.
    pub fn set_aside(&self) -> Vec<SetAside> {
        lock(&self.set_aside).clone()
    }

    /// The tables that are known to be damaged: those that cannot be opened, and those in which a block was found bad.
    pub(super) fn damaged_tables(&self, levels: &Levels) -> BTreeSet<u64> {
        let found = lock(&self.bad_blocks.found);
        let files: BTreeSet<&Path> = found.keys().map(|(file, _)| file.as_path()).collect();
        let is_damaged = |live: &&Live| match &live.table {
            Ok(table) => files.contains(table.path.as_path()),
            Err(_) => true,
        };
        levels.tables().filter(is_damaged).map(|live| live.meta.number).collect()
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
            unreadable: self.unreadable_of(&memory.levels),
            set_aside: self.set_aside(),
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

    /// What cannot be read: see [`Stats::unreadable`].
    pub fn unreadable(&self) -> Vec<UnreadableKeys> {
        let levels = Arc::clone(&self.memory().levels);
        self.unreadable_of(&levels)
    }

    /// What is damaged of the tables that are still there.
    fn unreadable_of(&self, levels: &Levels) -> Vec<UnreadableKeys> {
        let found = lock(&self.bad_blocks.found);
        let mut unreadable = Vec::new();
        let is_sound =
            |live: &&Live| found.is_empty() && live.table.is_ok() && live.meta.holes.is_empty();
        for live in levels.tables().filter(|live| !is_sound(live)) {
            let file = self.directory.table(live.meta.number);
            let mut push = |offset, keys: &KeyRange| {
                let KeyRange { first, last } = keys.clone();
                let file = file.clone();
                unreadable.push(UnreadableKeys { file, offset, first, last, is_lost: false });
            };
            if let Err(damage) = &live.table {
                push(damage.offset, &live.meta.keys());
            } else {
                let blocks = found.range((file.clone(), 0)..=(file.clone(), u64::MAX));
                blocks.for_each(|((_, offset), keys)| push(*offset, keys));
            }
            for hole in live.meta.holes.iter().filter(|hole| !hole.is_mended) {
                let KeyRange { first, last } = hole.keys.clone();
                let file = self.directory.set_aside(hole.lost_with);
                unreadable.push(UnreadableKeys { file, offset: 0, first, last, is_lost: true });
            }
        }
        unreadable
    }
}
