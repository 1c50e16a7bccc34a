//! A script of operations on a store, and what each prefix of its writes amounts to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::super::vfs::simulated::Disk;
use super::super::*;
use super::DIR;

/// Slots whose leaves the script changes.
pub(super) const SLOTS: u16 = 12;

/// What a store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) entries: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) leaves: BTreeMap<u16, u128>,
}

/// The content after each write, by its position, and up to where writes are promised.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    after: BTreeMap<LogPosition, Content>,
    /// Promised to survive a kill.
    pub(super) durable: LogPosition,
    /// Promised to survive a power loss.
    pub(super) synced: LogPosition,
}

/// One run of the script.
pub(super) struct Script {
    pub(super) disk: Disk,
    pub(super) options: Options,
    pub(super) history: Arc<Mutex<History>>,
    store: Store,
    random: ChaCha8Rng,
}

impl Content {
    pub(super) fn of(store: &Store) -> Self {
        let mut content = Self::default();
        for entry in store.scan(b"", None) {
            let (key, value) = entry.unwrap();
            assert_eq!(
                store.get(&key).unwrap().value.as_ref(),
                Some(&value),
                "get and scan differ"
            );
            content.entries.insert(key.to_vec(), value.to_vec());
        }
        content.leaves = (0..SLOTS)
            .map(|slot| (slot, store.leaf(slot)))
            .filter(|(_, bits)| *bits != 0)
            .collect();
        content
    }
}

impl History {
    /// Holds what a recovered store has against what was promised.
    pub(super) fn check(&self, store: &Store, at_least: LogPosition) -> Result<(), String> {
        let end = store.appended();
        if end < at_least {
            return Err(format!("ends at {end}, but {at_least} was acknowledged"));
        }
        let expected = match self.after.get(&end) {
            Some(content) => content.clone(),
            None if end == LogPosition::ZERO => Content::default(),
            None => {
                return Err(format!(
                    "ends at {end}, where no write ended: {:?}",
                    self.after.keys()
                ));
            }
        };
        let found = Content::of(store);
        if found == expected {
            Ok(())
        } else {
            Err(format!("at {end}: found {found:?}, expected {expected:?}"))
        }
    }
}

impl Script {
    pub(super) fn new(disk: &Disk, options: Options, seed: u64) -> Self {
        let store = open(disk, &options).unwrap();
        let random = ChaCha8Rng::seed_from_u64(seed);
        Self { disk: disk.clone(), options, history: Arc::default(), store, random }
    }

    /// Does the next operation. While it touches the disk, the history says what a crash must leave.
    pub(super) fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..55 => self.write(),
            55..75 => {
                let upto = self.store.appended();
                self.store.sync(upto).unwrap();
            }
            75..90 => {
                if let Some(job) = self.store.next_job() {
                    self.store.run(job).unwrap();
                }
            }
            90..93 => self.store.flush().unwrap(),
            93..95 => {
                self.store.sync_all().unwrap();
            }
            95..97 => self.store.close().unwrap(),
            _ => self.reopen(),
        }
        let (durable, synced) = (self.store.durable(), self.store.synced());
        let mut history = self.history();
        (history.durable, history.synced) = (durable, synced);
    }

    fn write(&mut self) {
        let mut content =
            self.history().after.last_key_value().map(|(_, last)| last.clone()).unwrap_or_default();
        let mut batch = WriteBatch::new();
        for _ in 0..self.random.random_range(1..5) {
            let key = format!("k{:02}", self.random.random_range(0..40)).into_bytes();
            if self.random.random_ratio(1, 4) {
                batch.delete(&key);
                content.entries.remove(&key);
            } else {
                let value = vec![self.random.random(); self.random.random_range(0..150)];
                batch.put(&key, &value);
                content.entries.insert(key, value);
            }
            let (slot, bits) = (self.random.random_range(0..SLOTS), self.random.random());
            batch.xor_leaf(slot, bits);
            *content.leaves.entry(slot).or_default() ^= bits;
        }
        content.leaves.retain(|_, bits| *bits != 0);
        if self.random.random_ratio(1, 8) {
            batch.durable();
        }
        let position = self.store.write(batch).unwrap();
        self.history().after.insert(position, content);
    }

    /// The process dies and starts again: what was not written is gone.
    fn reopen(&mut self) {
        self.store = open(&self.disk, &self.options).unwrap();
        let end = self.store.appended();
        // Not locked while the store reads: an observer of the disk looks at it.
        let history = self.history().clone();
        history.check(&self.store, history.durable).unwrap();
        self.history().after.split_off(&LogPosition::new(end.get() + 1));
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap()
    }
}

pub(super) fn open(disk: &Disk, options: &Options) -> Result<Store, OpenError> {
    let opened =
        Store::open(Arc::new(disk.clone()), Path::new(DIR), options.clone(), &mut |_, _| {});
    opened.map(|(store, _)| store)
}
