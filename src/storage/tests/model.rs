//! Random operations on a store and on a map: they must agree, whatever the options.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::super::vfs::simulated::{Disk, Unsynced};
use super::super::*;
use super::history::{open, open_in};
use super::{DIR, small};

#[derive(Debug, Clone)]
enum Operation {
    /// A batch, and whether it must be durable in every mode.
    Write(Vec<(Vec<u8>, Option<Vec<u8>>)>, bool),
    Get(Vec<u8>),
    Scan(Vec<u8>, Option<Vec<u8>>, usize),
    Sync,
    Freeze,
    Flush,
    Compact,
    Snapshot,
    Reopen,
    /// The process dies: what was handed to the system is there.
    Kill,
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
        8 => (prop::collection::vec(change, 0..6), prop::bool::weighted(0.2))
            .prop_map(|(changes, is_durable)| Operation::Write(changes, is_durable)),
        3 => key().prop_map(Operation::Get),
        2 => (key(), prop::option::of(key()), 1..20_usize).prop_map(|(start, end, max)| Operation::Scan(start, end, max)),
        2 => Just(Operation::Sync),
        1 => Just(Operation::Freeze),
        1 => Just(Operation::Flush),
        2 => Just(Operation::Compact),
        1 => Just(Operation::Snapshot),
        1 => Just(Operation::Reopen),
        1 => Just(Operation::Kill),
        1 => Just(Operation::PowerLoss),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    let bloom = prop_oneof![Just(0), 0..16_u32];
    let sizes = (300..3000_usize, 64..600_usize, 256..3000_u64, 1..4_usize, bloom);
    let levels = (256..3000_u64, 2..5_u64);
    let sync = prop::sample::select(vec![
        SyncMode::Always,
        SyncMode::Interval(Duration::from_millis(10)),
        SyncMode::Never,
    ]);
    let cache = prop_oneof![Just(0), 0..20_000_u64];
    let logs = (256..3000_u64, 100..3000_u64, sync);
    (sizes, levels, prop::bool::ANY, cache, 1..3000_u64, logs).prop_map(
        |(sizes, (level1_bytes, level_factor), lz4, cache_bytes, slice, logs)| {
            let (log_segment_bytes, manifest_edits_bytes, sync) = logs;
            let (memtable_bytes, block_bytes, table_bytes, level0_tables, bloom_bits_per_key) =
                sizes;
            Options {
                memtable_bytes,
                block_bytes,
                table_bytes,
                level0_tables,
                level1_bytes,
                level_factor,
                log_segment_bytes,
                manifest_edits_bytes,
                sync,
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

/// A store, and what it must hold.
struct Both {
    disk: Disk,
    options: Options,
    store: Store,
    model: Model,
    /// The model after each write.
    after: BTreeMap<LogPosition, Model>,
    snapshots: usize,
}

impl Both {
    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Write(changes, is_durable) => self.write(changes, is_durable),
            Operation::Get(key) => self.get(&key),
            Operation::Scan(start, end, max) => self.scan(start, end.as_deref(), max),
            Operation::Sync => drop(self.store.sync(self.store.appended()).unwrap()),
            Operation::Freeze => self.store.freeze(),
            Operation::Flush => self.store.flush().unwrap(),
            Operation::Compact => {
                if let Some(job) = self.store.next_compaction() {
                    self.store.run(job).unwrap();
                }
            }
            Operation::Snapshot => self.snapshot(),
            Operation::Reopen => {
                self.store.close().unwrap();
                self.reopen(self.store.appended());
            }
            Operation::Kill => {
                self.disk.power_loss(Unsynced::Kept);
                self.reopen(self.store.durable());
            }
            Operation::PowerLoss => {
                self.disk.power_loss(Unsynced::Dropped);
                self.reopen(self.store.synced());
            }
        }
    }

    fn get(&self, key: &[u8]) {
        let expected = self.model.get(key).map(|value| &**value);
        match self.store.get_cached(key).unwrap() {
            Cached::Ready(found) => assert_eq!(found.value.as_deref(), expected),
            Cached::NeedsDisk => {}
        }
        let found = self.store.get(key).unwrap();
        assert_eq!(found.value.as_deref(), expected);
        assert!(found.position <= self.store.appended());
    }

    fn write(&mut self, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>, is_durable: bool) {
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
        if is_durable {
            batch.durable();
        }
        let position = self.store.write(batch).unwrap();
        self.after.insert(position, self.model.clone());
    }

    fn snapshot(&mut self) {
        self.snapshots += 1;
        let dir = Path::new(DIR).join("snapshots").join(self.snapshots.to_string());
        self.store.snapshot(&dir).unwrap();
        // A power loss takes nothing of it.
        let disk = self.disk.fork(0);
        disk.power_loss(Unsynced::Dropped);
        let (snapshot, _) = open_in(&disk, &dir, &self.options).unwrap();
        assert_eq!(content(&snapshot, b"", None), self.model);
    }

    fn scan(&self, start: Vec<u8>, end: Option<&[u8]>, max: usize) {
        let mut expected = self.model.clone();
        expected.retain(|key, _| start <= *key && end.is_none_or(|end| key.as_slice() < end));
        assert_eq!(content(&self.store, &start, end), expected);
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
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    }

    /// Starts again, and holds what was written up to `end`, no more and no less.
    fn reopen(&mut self, end: LogPosition) {
        self.store = open(&self.disk, &self.options).unwrap();
        assert_eq!(self.store.appended(), end);
        self.after.split_off(&LogPosition::new(end.get() + 1));
        self.model =
            self.after.last_key_value().map(|(_, model)| model.clone()).unwrap_or_default();
        assert_eq!(content(&self.store, b"", None), self.model);
    }
}

fn content(store: &Store, start: &[u8], end: Option<&[u8]>) -> Model {
    let entry = |entry: Result<(bytes::Bytes, bytes::Bytes), ReadError>| {
        let (key, value) = entry.unwrap();
        (key.to_vec(), value.to_vec())
    };
    store.scan(start, end).map(entry).collect()
}

proptest! {
    #[test]
    fn a_store_is_a_sorted_map(options in options(), operations in prop::collection::vec(operation(), 1..80)) {
        let disk = Disk::new(0);
        let store = open(&disk, &options).unwrap();
        let mut both = Both { disk, options, store, model: Model::new(), after: BTreeMap::new(), snapshots: 0 };
        for operation in operations {
            both.apply(operation);
        }
        both.scan(Vec::new(), None, 3);
    }
}
