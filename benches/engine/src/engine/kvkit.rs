//! kvkit, by the calls its node makes: `write` then `sync`, `get_cached` then `get`, slices of a scan.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use kvkit::storage::vfs::Real;
use kvkit::storage::{
    Cached, Compression as Codec, Options, Store, SyncMode, WriteBatch, WriteError,
};

use self::workers::Workers;
use super::{
    BLOCK_BYTES, BLOOM_BITS_PER_KEY, Compression, Durability, Engine, Knobs, MEMTABLE_BYTES,
    MEMTABLES, Sink,
};

mod workers;

pub(super) struct Kvkit {
    store: Arc<Store>,
    workers: Workers,
}

impl Kvkit {
    pub(super) fn open(dir: &Path, knobs: Knobs) -> Result<Self> {
        let options = Options {
            sync: match knobs.durability {
                Durability::KillSafe => SyncMode::Never,
                Durability::Synced => SyncMode::Always,
            },
            memtable_bytes: MEMTABLE_BYTES,
            frozen_max: MEMTABLES - 1,
            cache_bytes: knobs.cache_bytes,
            compression: match knobs.compression {
                Compression::None => Codec::None,
                Compression::Lz4 => Codec::Lz4,
            },
            bloom_bits_per_key: BLOOM_BITS_PER_KEY.into(),
            block_bytes: BLOCK_BYTES,
            // The others keep no disk space back, and the size on disk is compared.
            reserve_bytes: 0,
            ..Options::default()
        };
        let (store, _) = Store::open(Arc::new(Real), dir, options, &mut |_, _| {})?;
        let store = Arc::new(store);
        Ok(Self { workers: Workers::start(&store)?, store })
    }

    /// The batch is built again when the store is behind: copying it each time for that case would cost every write.
    fn commit(&self, change: impl Fn(&mut WriteBatch) -> &mut WriteBatch) -> Result<()> {
        loop {
            let mut batch = WriteBatch::new();
            change(&mut batch);
            match self.store.write(batch) {
                Ok(position) => {
                    self.store.sync(position)?;
                    return Ok(());
                }
                Err(WriteError::Overloaded { .. }) => self.workers.wait_for_progress()?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Engine for Kvkit {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.commit(|batch| batch.put(key, value))
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.commit(|batch| batch.delete(key))
    }

    fn get(&self, key: &[u8], sink: &mut Sink) -> Result<bool> {
        let found = match self.store.get_cached(key)? {
            Cached::Ready(found) => found,
            Cached::NeedsDisk => self.store.get(key)?,
        };
        if let Some(value) = &found.value {
            sink.take_value(value);
        }
        Ok(found.value.is_some())
    }

    fn seek(&self, start: &[u8], entries_max: usize, sink: &mut Sink) -> Result<()> {
        let slice = self.store.scan_slice(start, None, entries_max, usize::MAX)?;
        for (key, value) in &slice.entries {
            sink.take_entry(key, value);
        }
        Ok(())
    }

    fn scan(&self, sink: &mut Sink) -> Result<()> {
        for entry in self.store.scan(b"", None) {
            let (key, value) = entry?;
            sink.take_entry(&key, &value);
        }
        Ok(())
    }

    fn settle(&self) -> Result<Instant> {
        self.store.freeze();
        self.workers.wait_until_idle()
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.workers.stop()?;
        self.store.close()?;
        Ok(())
    }
}
