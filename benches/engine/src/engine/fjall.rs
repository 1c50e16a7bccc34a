//! fjall.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use fjall::config::{
    BlockSizePolicy, BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry,
    PartitioningPolicy, PinningPolicy,
};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{
    BLOCK_BYTES, BLOOM_BITS_PER_KEY, Compression, Durability, Engine, Knobs, MEMTABLE_BYTES, Sink,
};

/// One of them keeps to flushes.
const WORKER_THREADS: usize = 2;
/// fjall cannot be asked whether it is idle: it is once nothing was under way, and nothing finished, for this long.
const QUIET: Duration = Duration::from_millis(100);
const LOOK_AROUND: Duration = Duration::from_millis(2);

pub(super) struct Fjall {
    db: Database,
    keyspace: Keyspace,
    durability: Durability,
}

impl Fjall {
    pub(super) fn open(dir: &Path, knobs: Knobs) -> Result<Self> {
        let db = Database::builder(dir)
            .cache_size(knobs.cache_bytes)
            .worker_threads(WORKER_THREADS)
            .journal_compression(CompressionType::None)
            .open()?;
        let blocks = match knobs.compression {
            Compression::None => CompressionPolicy::disabled(),
            Compression::Lz4 => CompressionPolicy::all(CompressionType::Lz4),
        };
        let bits = BloomConstructionPolicy::BitsPerKey(BLOOM_BITS_PER_KEY.into());
        let block_bytes = u32::try_from(BLOCK_BYTES)?;
        let keyspace = db.keyspace("bench", || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(MEMTABLE_BYTES as u64)
                .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(bits)))
                .data_block_size_policy(BlockSizePolicy::all(block_bytes))
                .data_block_compression_policy(blocks)
                .index_block_compression_policy(CompressionPolicy::disabled())
                // The others hold filters and indexes in memory.
                .filter_block_pinning_policy(PinningPolicy::all(true))
                .index_block_pinning_policy(PinningPolicy::all(true))
                .filter_block_partitioning_policy(PartitioningPolicy::all(false))
                .index_block_partitioning_policy(PartitioningPolicy::all(false))
        })?;
        Ok(Self { db, keyspace, durability: knobs.durability })
    }

    /// An insert has reached `write(2)` when it returns.
    fn persist(&self) -> Result<()> {
        match self.durability {
            Durability::KillSafe => Ok(()),
            Durability::Synced => Ok(self.db.persist(PersistMode::SyncData)?),
        }
    }
}

impl Engine for Fjall {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.keyspace.insert(key, value)?;
        self.persist()
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.keyspace.remove(key)?;
        self.persist()
    }

    fn get(&self, key: &[u8], sink: &mut Sink) -> Result<bool> {
        let value = self.keyspace.get(key)?;
        if let Some(value) = &value {
            sink.take_value(value);
        }
        Ok(value.is_some())
    }

    fn seek(&self, start: &[u8], entries_max: usize, sink: &mut Sink) -> Result<()> {
        for guard in self.keyspace.range(start..).take(entries_max) {
            let (key, value) = guard.into_inner()?;
            sink.take_entry(&key, &value);
        }
        Ok(())
    }

    fn scan(&self, sink: &mut Sink) -> Result<()> {
        for guard in self.keyspace.iter() {
            let (key, value) = guard.into_inner()?;
            sink.take_entry(&key, &value);
        }
        Ok(())
    }

    fn settle(&self) -> Result<Instant> {
        self.keyspace.rotate_memtable_and_wait()?;
        let mut done = self.db.compactions_completed();
        let mut since = Instant::now();
        while since.elapsed() < QUIET {
            thread::sleep(LOOK_AROUND);
            let is_busy = self.db.active_compactions() != 0 || self.db.outstanding_flushes() != 0;
            let done_now = self.db.compactions_completed();
            if is_busy || done_now != done {
                done = done_now;
                since = Instant::now();
            }
        }
        Ok(since)
    }

    fn close(self: Box<Self>) -> Result<()> {
        drop(self);
        Ok(())
    }
}
