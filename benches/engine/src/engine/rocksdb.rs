//! RocksDB.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Options, ReadOptions, WaitForCompactOptions,
    WriteOptions,
};

use super::{
    BLOCK_BYTES, BLOOM_BITS_PER_KEY, Compression, Durability, Engine, Knobs, MEMTABLE_BYTES,
    MEMTABLES, Sink,
};

/// One flush and one compaction at a time: RocksDB gives a quarter of these, at least one, to flushes.
const BACKGROUND_JOBS: i32 = 2;

pub(super) struct Rocksdb {
    db: DB,
    writing: WriteOptions,
    reading: ReadOptions,
}

impl Rocksdb {
    pub(super) fn open(dir: &Path, knobs: Knobs) -> Result<Self> {
        let mut table = BlockBasedOptions::default();
        // Zero lets the cache find out how large the blocks are, as RocksDB recommends.
        table
            .set_block_cache(&Cache::new_hyper_clock_cache(usize::try_from(knobs.cache_bytes)?, 0));
        table.set_bloom_filter(BLOOM_BITS_PER_KEY.into(), false);
        table.set_block_size(BLOCK_BYTES);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_write_buffer_size(MEMTABLE_BYTES);
        options.set_max_write_buffer_number(i32::try_from(MEMTABLES)?);
        options.set_max_background_jobs(BACKGROUND_JOBS);
        options.set_compression_type(match knobs.compression {
            Compression::None => DBCompressionType::None,
            Compression::Lz4 => DBCompressionType::Lz4,
        });
        options.set_block_based_table_factory(&table);
        let mut writing = WriteOptions::default();
        writing.set_sync(knobs.durability == Durability::Synced);
        Ok(Self { db: DB::open(&options, dir)?, writing, reading: ReadOptions::default() })
    }
}

impl Engine for Rocksdb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.db.put_opt(key, value, &self.writing)?)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        Ok(self.db.delete_opt(key, &self.writing)?)
    }

    fn get(&self, key: &[u8], sink: &mut Sink) -> Result<bool> {
        let value = self.db.get_pinned_opt(key, &self.reading)?;
        if let Some(value) = &value {
            sink.take_value(value);
        }
        Ok(value.is_some())
    }

    fn seek(&self, start: &[u8], entries_max: usize, sink: &mut Sink) -> Result<()> {
        let mut iterator = self.db.raw_iterator();
        iterator.seek(start);
        for _ in 0..entries_max {
            let Some((key, value)) = iterator.item() else { break };
            sink.take_entry(key, value);
            iterator.next();
        }
        Ok(iterator.status()?)
    }

    fn scan(&self, sink: &mut Sink) -> Result<()> {
        let mut iterator = self.db.raw_iterator();
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            sink.take_entry(key, value);
            iterator.next();
        }
        Ok(iterator.status()?)
    }

    fn settle(&self) -> Result<Instant> {
        let mut how = WaitForCompactOptions::default();
        how.set_flush(true);
        self.db.wait_for_compact(&how)?;
        Ok(Instant::now())
    }

    fn close(self: Box<Self>) -> Result<()> {
        drop(self);
        Ok(())
    }
}
