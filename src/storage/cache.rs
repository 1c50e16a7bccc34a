//! The block cache: what is used often stays, one long scan does not push it out (S3-FIFO, by `quick_cache`).
//!
//! Hashing and the number of shards are fixed, so that the same reads hit and miss alike on every machine: the simulator
//! depends on it.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use super::table::block::DataBlock;

/// Locks the cache is split into, at most.
const SHARDS: usize = 8;
/// Least bytes a shard should have: fewer hold no working set.
const SHARD_BYTES_MIN: u64 = 1 << 20;
/// Bytes of bookkeeping an entry costs beside its block.
const ENTRY_BYTES: u64 = 96;
/// Bytes expected of a block, to size the tables.
const BLOCK_BYTES_EXPECTED: u64 = 4 << 10;

/// Table number and byte offset.
type Place = (u64, u64);

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<Place, DataBlock> for ByBytes {
    fn weight(&self, _: &Place, block: &DataBlock) -> u64 {
        block.bytes() as u64 + ENTRY_BYTES
    }
}

/// Mixes the two numbers of a [`Place`]; the same on every machine.
#[derive(Debug, Clone, Default)]
struct PlaceHasher(u64);

impl Hasher for PlaceHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.0);
    }

    #[expect(clippy::cast_possible_truncation, reason = "the upper half is folded in first")]
    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0 ^ number ^ 0x9e37_79b9_7f4a_7c15)
            * u128::from(0xd6e8_feb8_6659_fd93_u64);
        let folded = (product >> 64) ^ (product & u128::from(u64::MAX));
        self.0 = folded as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Lifecycle = DefaultLifecycle<Place, DataBlock>;

/// Data blocks by where they stand, up to a number of bytes.
#[derive(Debug)]
pub(crate) struct BlockCache {
    blocks: Cache<Place, DataBlock, ByBytes, BuildHasherDefault<PlaceHasher>, Lifecycle>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl BlockCache {
    pub(crate) fn new(bytes: u64) -> Self {
        let shards = usize::try_from(bytes / SHARD_BYTES_MIN).unwrap_or(SHARDS).clamp(1, SHARDS);
        let items = usize::try_from(bytes / BLOCK_BYTES_EXPECTED).unwrap_or(usize::MAX).max(1);
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(items)
            .weight_capacity(bytes)
            .build()
            .expect("both capacities are given");
        let blocks = Cache::with_options(
            options,
            ByBytes,
            BuildHasherDefault::default(),
            Lifecycle::default(),
        );
        Self { blocks, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    pub(crate) fn get(&self, table: u64, offset: u64) -> Option<DataBlock> {
        let block = self.blocks.get(&(table, offset));
        let counter = if block.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        block
    }

    pub(crate) fn insert(&self, table: u64, offset: u64, block: DataBlock) {
        self.blocks.insert((table, offset), block);
    }

    /// Holds at most so many bytes from now on.
    pub(crate) fn limit(&self, bytes: u64) {
        if self.blocks.capacity() != bytes {
            self.blocks.set_capacity(bytes);
        }
    }

    /// Bytes in use.
    pub(crate) fn bytes(&self) -> u64 {
        self.blocks.weight()
    }

    /// Lookups that found their block, and those that did not.
    pub(crate) fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::block::DataBuilder;
    use super::*;

    fn block() -> DataBlock {
        let mut builder = DataBuilder::default();
        builder.push(b"key", Some(&[1; 1000]));
        DataBlock::new(builder.finish().into()).unwrap()
    }

    #[test]
    fn it_stays_within_its_bytes_and_evicts_alike_every_time() {
        let run = || {
            let cache = BlockCache::new(20_000);
            (0..100).for_each(|offset| cache.insert(1, offset, block()));
            assert!(cache.bytes() <= 20_000);
            (0..100).filter(|offset| cache.get(1, *offset).is_some()).collect::<Vec<_>>()
        };
        assert!(!run().is_empty());
        assert_eq!(run(), run());
    }

    #[test]
    fn a_lower_limit_makes_it_give_blocks_up() {
        let cache = BlockCache::new(100_000);
        (0..50).for_each(|offset| cache.insert(1, offset, block()));
        let before = cache.bytes();
        cache.limit(10_000);
        assert!(before > 40_000 && cache.bytes() <= 10_000, "{before}, {}", cache.bytes());
        cache.limit(100_000);
        (0..50).for_each(|offset| cache.insert(1, offset, block()));
        assert_eq!(cache.bytes(), before);
    }

    #[test]
    fn a_cache_of_nothing_holds_nothing() {
        let cache = BlockCache::new(0);
        cache.insert(1, 0, block());
        assert!(cache.get(1, 0).is_none());
    }
}
