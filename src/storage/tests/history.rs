//! A script of operations on a store, and what each prefix of its writes amounts to.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::super::vfs::is_full;
use super::super::vfs::simulated::{Disk, Unsynced};
use super::super::*;
use super::{DIR, written_length};

/// Slots whose leaves the script changes.
pub(super) const SLOTS: u16 = 12;
/// Snapshots that one script makes.
const SNAPSHOTS_MAX: usize = 4;
/// What a disk has left when the script fills it, in bytes at most.
const SPARE_BYTES_MAX: u64 = 20_000;

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
    /// The last snapshot that was finished, and what it must hold.
    pub(super) snapshot: Option<(PathBuf, Content)>,
    /// The one that is being made: it has its name only when it is whole.
    pub(super) begun_snapshot: Option<(PathBuf, Content)>,
}

/// What the script is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activity {
    Sync,
    Flush,
    Compact,
    Close,
    Snapshot,
    /// A start of the script's own store.
    Restart,
    /// A start of a crashed copy, and what is tried with it.
    Recover,
}

/// One run of the script.
pub(super) struct Script {
    pub(super) disk: Disk,
    pub(super) options: Options,
    pub(super) history: Arc<Mutex<History>>,
    /// Whether it loses power now and then by itself.
    pub(super) loses_power: bool,
    store: Store,
    random: ChaCha8Rng,
    snapshots: usize,
    is_disk_full: bool,
}

thread_local! {
    static ACTIVITY: Cell<Activity> = const { Cell::new(Activity::Sync) };
}

/// What this thread is doing.
pub(super) fn activity() -> Activity {
    ACTIVITY.get()
}

/// Runs `operation` as this activity.
pub(super) fn during<T>(activity: Activity, operation: impl FnOnce() -> T) -> T {
    let before = ACTIVITY.replace(activity);
    let result = operation();
    ACTIVITY.set(before);
    result
}

impl Content {
    /// What the store holds, read both ways; or what of it cannot be read.
    pub(super) fn of(store: &Store) -> Result<Self, String> {
        let mut content = Self::default();
        for entry in store.scan(b"", None) {
            let (key, value) = entry.map_err(|error| format!("{error:?}"))?;
            let found = store.get(&key).map_err(|error| format!("{error:?}"))?;
            assert_eq!(found.value.as_ref(), Some(&value), "get and scan differ");
            content.entries.insert(key.to_vec(), value.to_vec());
        }
        let leaves = (0..SLOTS).map(|slot| (slot, store.leaf(slot)));
        content.leaves = leaves.filter(|(_, bits)| *bits != 0).collect();
        Ok(content)
    }

    /// Holds what the store has against this.
    pub(super) fn check(&self, store: &Store) -> Result<(), String> {
        let found = Self::of(store)?;
        if found == *self { Ok(()) } else { Err(format!("found {found:?}, expected {self:?}")) }
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
        expected.check(store).map_err(|difference| format!("at {end}: {difference}"))
    }
}

impl Script {
    pub(super) fn new(disk: &Disk, options: Options, seed: u64) -> Self {
        let store = during(Activity::Recover, || open(disk, &options).unwrap());
        let random = ChaCha8Rng::seed_from_u64(seed);
        Self {
            disk: disk.clone(),
            options,
            history: Arc::default(),
            loses_power: true,
            store,
            random,
            snapshots: 0,
            is_disk_full: false,
        }
    }

    /// Does the next operation. While it touches the disk, the history says what a crash must leave. An error is a
    /// promise that was not kept.
    pub(super) fn step(&mut self) -> Result<(), String> {
        match self.random.random_range(0..100) {
            0..52 => self.write()?,
            52..71 => {
                let upto = self.store.appended();
                let synced = during(Activity::Sync, || self.store.sync(upto));
                synced.map_err(|error| error.to_string())?;
            }
            71..89 => self.run_job()?,
            89..91 => self.finish(during(Activity::Flush, || self.store.flush()))?,
            91..92 => {
                let synced = during(Activity::Sync, || self.store.sync_all());
                synced.map_err(|error| error.to_string())?;
            }
            92..93 => self.close()?,
            93..95 => self.snapshot()?,
            95..97 => self.fill_or_free_disk()?,
            97..98 if self.loses_power => self.lose_power()?,
            _ => self.reopen()?,
        }
        let (durable, synced) = (self.store.durable(), self.store.synced());
        let mut history = self.history();
        (history.durable, history.synced) = (durable, synced);
        Ok(())
    }

    fn run_job(&mut self) -> Result<(), String> {
        let job = self.store.next_flush().or_else(|| self.store.next_compaction());
        let Some(job) = job.or_else(|| self.store.next_job()) else { return Ok(()) };
        let activity = match job {
            Job::SyncLog => Activity::Sync,
            Job::Flush => Activity::Flush,
            Job::Compact(_) => Activity::Compact,
        };
        self.finish(during(activity, || self.store.run(job)))
    }

    /// On a full disk a job may be put off.
    fn finish(&self, done: Result<(), JobError>) -> Result<(), String> {
        match done {
            Err(JobError::Full) if self.is_disk_full => Ok(()),
            other => other.map_err(|error| format!("{error:?}")),
        }
    }

    fn write(&mut self) -> Result<(), String> {
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
        match self.store.write(batch) {
            Ok(position) => {
                self.history().after.insert(position, content);
                Ok(())
            }
            Err(WriteError::Full | WriteError::Overloaded { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// A clean stop. From then on a log that lost its end is damaged, not torn.
    fn close(&mut self) -> Result<(), String> {
        during(Activity::Close, || self.store.close()).map_err(|error| error.to_string())?;
        if self.store.stats().log_bytes == 0 {
            return Ok(());
        }
        let disk = self.disk.fork(0);
        disk.set_capacity(None);
        disk.power_loss(Unsynced::Dropped);
        let log = disk.files().into_iter().rfind(|(path, length)| {
            path.starts_with("store/log") && log::HEADER_BYTES as u64 + 8 < *length
        });
        let Some((path, _)) = log else { return Ok(()) };
        disk.truncate(&path, written_length(&disk, &path) - 1).unwrap();
        match during(Activity::Recover, || open(&disk, &self.options)) {
            Err(OpenError::Damaged { .. }) => Ok(()),
            other => Err(format!("{} was cut short after a clean stop: {other:?}", path.display())),
        }
    }

    fn snapshot(&mut self) -> Result<(), String> {
        if self.snapshots == SNAPSHOTS_MAX {
            return Ok(());
        }
        let flushed = during(Activity::Flush, || self.store.flush());
        if matches!(flushed, Err(JobError::Full)) && self.is_disk_full {
            return Ok(());
        }
        flushed.map_err(|error| format!("{error:?}"))?;
        self.snapshots += 1;
        let dir = Path::new(DIR).join("snapshots").join(self.snapshots.to_string());
        let content =
            self.history().after.last_key_value().map(|(_, last)| last.clone()).unwrap_or_default();
        self.history().begun_snapshot = Some((dir.clone(), content));
        let made = during(Activity::Snapshot, || self.store.snapshot(&dir));
        let begun = self.history().begun_snapshot.take();
        match made {
            Ok(()) => {
                self.history().snapshot = begun;
                Ok(())
            }
            Err(SnapshotError::Flush(JobError::Full)) if self.is_disk_full => Ok(()),
            Err(SnapshotError::Io { source, .. }) if is_full(&source) && self.is_disk_full => {
                Ok(())
            }
            Err(error) => Err(format!("{error:?}")),
        }
    }

    fn fill_or_free_disk(&mut self) -> Result<(), String> {
        let capacity = if self.is_disk_full {
            None
        } else {
            Some(self.disk.used() + self.random.random_range(0..SPARE_BYTES_MAX))
        };
        self.disk.set_capacity(capacity);
        self.is_disk_full = capacity.is_some();
        self.store.check_space().map_err(|error| error.to_string())
    }

    /// The process dies and starts again: what was not written is gone.
    fn reopen(&mut self) -> Result<(), String> {
        let at_least = self.history().durable;
        self.start(at_least)
    }

    /// The machine loses power, and with it what was not synced, or some of it.
    fn lose_power(&mut self) -> Result<(), String> {
        self.disk.power_loss(Unsynced::Torn);
        let at_least = {
            let mut history = self.history();
            history.durable = history.synced;
            history.synced
        };
        self.start(at_least)
    }

    fn start(&mut self, at_least: LogPosition) -> Result<(), String> {
        self.disk.set_capacity(None);
        self.is_disk_full = false;
        let opened = during(Activity::Restart, || open(&self.disk, &self.options));
        self.store = opened.map_err(|error| error.to_string())?;
        let end = self.store.appended();
        // Not locked while the store reads: an observer of the disk looks at it.
        let history = self.history().clone();
        history.check(&self.store, at_least)?;
        self.history().after.split_off(&LogPosition::new(end.get() + 1));
        Ok(())
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap()
    }
}

pub(super) fn open(disk: &Disk, options: &Options) -> Result<Store, OpenError> {
    open_in(disk, Path::new(DIR), options).map(|(store, _)| store)
}

pub(super) fn open_in(
    disk: &Disk,
    dir: &Path,
    options: &Options,
) -> Result<(Store, Recovery), OpenError> {
    Store::open(Arc::new(disk.clone()), dir, options.clone(), &mut |_, _| {})
}
