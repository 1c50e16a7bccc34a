//! Random operations on a store and on a map: they must agree, whatever the options.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::vfs::simulated::{Disk, Unsynced};
use super::super::*;
use super::history::open;
use super::small;

#[derive(Debug, Clone)]
enum Operation {
    Write(Vec<(Vec<u8>, Option<Vec<u8>>)>),
    Get(Vec<u8>),
    Scan(Vec<u8>, Option<Vec<u8>>, usize),
    Sync,
    Freeze,
    Flush,
    Compact,
    Reopen,
    PowerLoss,
}

/// Few and awkward keys: empty, prefixes of each other, runs of 0xff.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let letters = prop::sample::select(vec![0_u8, b'a', b'b', 0xff]);
    prop::collection::vec(letters, 0..5)
}

fn operation() -> impl Strategy<Value = Operation> {
    let value = prop::collection::vec(any::<u8>(), 0..200);
    let change = (key(), prop::option::weighted(0.7, value));
    prop_oneof![
        8 => prop::collection::vec(change, 0..6).prop_map(Operation::Write),
        3 => key().prop_map(Operation::Get),
        2 => (key(), prop::option::of(key()), 1..20_usize).prop_map(|(start, end, max)| Operation::Scan(start, end, max)),
        2 => Just(Operation::Sync),
        1 => Just(Operation::Freeze),
        1 => Just(Operation::Flush),
        2 => Just(Operation::Compact),
        1 => Just(Operation::Reopen),
        1 => Just(Operation::PowerLoss),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    let sizes = (300..3000_usize, 64..600_usize, 256..3000_u64, 1..4_usize, 0..16_u32);
    let level1 = 256..3000_u64;
    (sizes, level1, prop::bool::ANY, 0..20_000_u64, 1..3000_u64).prop_map(
        |(sizes, level1_bytes, lz4, cache_bytes, slice)| {
            let (memtable_bytes, block_bytes, table_bytes, level0_tables, bloom_bits_per_key) =
                sizes;
            Options {
                memtable_bytes,
                block_bytes,
                table_bytes,
                level0_tables,
                level1_bytes,
                bloom_bits_per_key,
                cache_bytes,
                compression: if lz4 { Compression::Lz4 } else { Compression::None },
                compaction_slice_bytes: slice,
                frozen_max: 64,
                ..small()
            }
        },
    )
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// What was written, and what of it is durable.
struct Both {
    disk: Disk,
    options: Options,
    store: Store,
    model: Model,
    durable: Model,
}

impl Both {
    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Write(changes) => self.write(changes),
            Operation::Get(key) => {
                let found = self.store.get(&key).unwrap().value;
                assert_eq!(found.as_deref(), self.model.get(&key).map(|value| &**value));
            }
            Operation::Scan(start, end, max) => self.scan(start, end.as_deref(), max),
            Operation::Sync => self.sync(),
            Operation::Freeze => self.store.freeze(),
            Operation::Flush => {
                self.store.flush().unwrap();
                self.durable = self.model.clone();
            }
            Operation::Compact => {
                if let Some(job) = self.store.next_compaction() {
                    self.store.run(job).unwrap();
                }
            }
            Operation::Reopen => {
                self.sync();
                self.reopen();
            }
            Operation::PowerLoss => {
                self.disk.power_loss(Unsynced::Dropped);
                self.model = self.durable.clone();
                self.reopen();
            }
        }
    }

    fn write(&mut self, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) {
        let mut batch = WriteBatch::new();
        for (key, value) in changes {
            if let Some(value) = value {
                batch.put(&key, &value);
                self.model.insert(key, value);
            } else {
                batch.delete(&key);
                self.model.remove(&key);
            }
        }
        self.store.write(batch).unwrap();
    }

    fn scan(&self, start: Vec<u8>, end: Option<&[u8]>, max: usize) {
        let expected = self
            .model
            .range(start.clone()..)
            .take_while(|(key, _)| end.is_none_or(|end| key.as_slice() < end));
        let expected: Vec<_> = expected.map(|(key, value)| (key.clone(), value.clone())).collect();
        let mut found = Vec::new();
        let mut next = Some(start);
        while let Some(start) = next {
            let slice = self.store.scan_slice(&start, end, max, 1 << 20).unwrap();
            assert!(slice.entries.len() <= max);
            found.extend(
                slice.entries.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())),
            );
            next = slice.next.map(|next| next.to_vec());
        }
        assert_eq!(found, expected);
    }

    fn sync(&mut self) {
        self.store.sync(self.store.appended()).unwrap();
        self.durable = self.model.clone();
    }

    fn reopen(&mut self) {
        self.store = open(&self.disk, &self.options).unwrap();
        self.durable = self.model.clone();
    }
}

proptest! {
    #[test]
    fn a_store_is_a_sorted_map(options in options(), operations in prop::collection::vec(operation(), 1..80)) {
        let disk = Disk::new(0);
        let store = open(&disk, &options).unwrap();
        let mut both = Both { disk, options, store, model: Model::new(), durable: Model::new() };
        for operation in operations {
            both.apply(operation);
        }
        both.scan(Vec::new(), None, 3);
    }
}
