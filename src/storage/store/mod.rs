//! The store: log, memtables and tables behind one face. Its jobs are values that someone else runs.
//!
//! Locks, in the order in which they are taken: `flushing` or `compacting`, then the turn to sync, then `log` or
//! `manifest`, then `memory`. No file is touched while `memory` is held, so a write or a cached read never waits for the
//! disk; none is synced while `log` is held, unless each write waits for a sync anyway.

mod bell;
mod compact;
mod error;
mod flush;
mod mend;
mod pace;
mod primitives;
mod scan;
mod scrub;
mod snapshot;
mod stats;
mod sync;
mod turn;

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::batch::{self, BATCH_BYTES_MAX, Change, WriteBatch};
use super::cache::BlockCache;
use super::directory::Directory;
use super::leaves::Leaves;
use super::levels::Levels;
use super::log::LogPosition;
use super::log::writer::{Buffer, Order, Writer};
use super::manifest::writer::ManifestWriter;
use super::memtable::{Frozen, Memtable};
use super::options::Options;
use super::plan::Plan;
use super::space::Space;
use super::table::ReadError;
use super::table::bloom::KeyHash;
use super::table::reader::{Blocks, Lookup};
use super::vfs::Vfs;

pub use error::{Failed, JobError, SnapshotError, WriteError};
use primitives::lock;
pub use scan::{Scan, ScanSlice};
pub use scrub::Scrubbed;
pub(super) use snapshot::{make_directories, sync_parent};
pub use stats::{SetAside, Stats, UnreadableKeys};

/// An LSM store in one directory.
///
/// `Send + Sync` and synchronous; it starts no thread and reads no clock. What must happen in the background it says
/// with [`Store::next_job`]. The caller holds the directory's lock ([`super::identity::DirLock`]).
#[derive(Debug)]
pub struct Store {
    vfs: Arc<dyn Vfs>,
    directory: Directory,
    options: Options,
    memory: RwLock<Memory>,
    log: Mutex<Writer>,
    turn: turn::Turn,
    pace: pace::Pace,
    manifest: Mutex<ManifestWriter>,
    flushing: Mutex<()>,
    compacting: Mutex<compact::Compacting>,
    scrub: Mutex<scrub::ScrubPlace>,
    cache: BlockCache,
    space: Space,
    /// Up to where the log is as durable as the mode promises.
    durable: AtomicU64,
    /// Up to where the log is `fdatasync`ed.
    synced: AtomicU64,
    failure: OnceLock<String>,
    /// A flush or merge found the disk full; none is tried before [`Store::check_space`].
    jobs_wait: AtomicBool,
    counters: stats::Counters,
    bad_blocks: stats::BadBlocks,
    set_aside: Mutex<Vec<SetAside>>,
}

/// What is in memory, changed by each write.
#[derive(Debug)]
struct Memory {
    active: Memtable,
    /// Oldest first.
    frozen: VecDeque<Arc<Frozen>>,
    levels: Arc<Levels>,
    leaves: Leaves,
    buffer: Buffer,
    next_number: u64,
    /// What the log holds before is in tables.
    floor: LogPosition,
    /// The last write that must be `fdatasync`ed in every mode.
    fdatasync_wanted: LogPosition,
}

/// What a key holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The value; `None` when the key was deleted or never written.
    pub value: Option<Bytes>,
    /// The write that this is the state after; [`LogPosition::ZERO`] when it is in no memtable, and so durable.
    pub position: LogPosition,
}

/// What a key holds, as far as memory knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cached {
    /// The whole answer.
    Ready(Found),
    /// A block must be read: ask [`Store::get`] where reading the disk is allowed.
    NeedsDisk,
}

/// Work that the store wants done; see [`Store::run`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Write the log's buffer, and sync it where the mode wants that.
    SyncLog,
    /// Write the oldest frozen memtable as a table.
    Flush,
    /// Go on with this merge, for a slice.
    Compact(Plan),
}

/// What recovery hands over.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) vfs: Arc<dyn Vfs>,
    pub(super) directory: Directory,
    pub(super) options: Options,
    pub(super) space: Space,
    pub(super) manifest: ManifestWriter,
    pub(super) levels: Levels,
    pub(super) next_number: u64,
}

impl Store {
    pub(super) fn from_parts(parts: Parts) -> Self {
        let Parts { vfs, directory, options, space, manifest, levels, next_number } = parts;
        let state = manifest.state();
        let end = state.floor.first_position;
        let memory = Memory {
            active: Memtable::default(),
            frozen: VecDeque::new(),
            levels: Arc::new(levels),
            leaves: state.leaves.clone(),
            buffer: Buffer::new(state.floor),
            next_number,
            floor: end,
            fdatasync_wanted: LogPosition::ZERO,
        };
        let store = Self {
            log: Mutex::new(Writer::new(
                Arc::clone(&vfs),
                directory.log.clone(),
                Order::of(options.sync),
            )),
            turn: turn::Turn::default(),
            pace: pace::Pace::default(),
            memory: RwLock::new(memory),
            manifest: Mutex::new(manifest),
            flushing: Mutex::new(()),
            compacting: Mutex::default(),
            scrub: Mutex::default(),
            cache: BlockCache::new(options.cache_bytes),
            space,
            durable: AtomicU64::new(end.get()),
            synced: AtomicU64::new(end.get()),
            failure: OnceLock::new(),
            jobs_wait: AtomicBool::new(false),
            counters: stats::Counters::default(),
            bad_blocks: stats::BadBlocks::default(),
            set_aside: Mutex::default(),
            vfs,
            directory,
            options,
        };
        store.balance_memory(&store.memory().levels);
        store
    }

    /// What the key holds. May read the disk.
    /// # Errors
    /// [`ReadError`]: this key cannot be read; others can.
    pub fn get(&self, key: &[u8]) -> Result<Found, ReadError> {
        let found = self.look_up(key, Blocks::Keep(&self.cache));
        match found.inspect_err(|error| self.bad_blocks.note(error))? {
            Cached::Ready(found) => Ok(found),
            Cached::NeedsDisk => unreachable!("the disk may be read"),
        }
    }

    /// What the key holds, if that is in memory: in the store's, or in the system's page cache.
    /// # Errors
    /// [`ReadError`]: this key cannot be read; others can.
    pub fn get_cached(&self, key: &[u8]) -> Result<Cached, ReadError> {
        self.look_up(key, Blocks::AtOnce(&self.cache))
    }

    /// Takes a batch: into the log's buffer and the memtable, no further. It counts once [`Store::durable`] has reached
    /// the position returned.
    /// # Errors
    /// [`WriteError`]; nothing of the batch is applied then.
    pub fn write(&self, batch: impl Borrow<WriteBatch>) -> Result<LogPosition, WriteError> {
        let batch = batch.borrow();
        self.check_failure()?;
        let bytes = batch.bytes();
        if bytes > BATCH_BYTES_MAX {
            return Err(WriteError::TooLarge { bytes, bytes_max: BATCH_BYTES_MAX });
        }
        let wants_fdatasync = batch.wants_fdatasync();
        let mut memory = self.memory_mut();
        if batch.is_empty() {
            return Ok(memory.buffer.appended());
        }
        self.admit(&memory, bytes, batch.may_use_reserve() || wants_fdatasync)?;
        let position = memory.buffer.append(self.synced(), batch.encoded());
        self.counters.writes.fetch_add(1, Ordering::Relaxed);
        if wants_fdatasync {
            memory.fdatasync_wanted = position;
        }
        for change in batch::changes(batch.encoded()) {
            memory.apply(change.expect("a batch that we encoded"), position);
        }
        if self.options.memtable_bytes <= memory.active.bytes()
            && memory.frozen.len() < self.options.frozen_max
        {
            memory.freeze();
            self.note_debt(&memory);
            drop(memory);
            self.ring();
        } else if self.options.log_segment_bytes <= memory.buffer.segment_bytes() {
            memory.rotate();
        }
        Ok(position)
    }

    /// Writes taken since the start.
    pub fn writes(&self) -> u64 {
        self.counters.writes.load(Ordering::Relaxed)
    }

    /// The position of the last write taken.
    pub fn appended(&self) -> LogPosition {
        self.memory().buffer.appended()
    }

    /// Up to where writes are as durable as the sync mode promises: `fdatasync`ed in `always`; in the other modes handed
    /// to the system, and `fdatasync`ed up to the last [`WriteBatch::durable`] batch among them.
    pub fn durable(&self) -> LogPosition {
        LogPosition::new(self.durable.load(Ordering::Acquire))
    }

    /// Up to where writes are `fdatasync`ed: they survive a power loss, whatever the mode.
    pub fn synced(&self) -> LogPosition {
        LogPosition::new(self.synced.load(Ordering::Acquire))
    }

    /// The slot's leaf, as of all writes taken.
    pub fn leaf(&self, slot: u16) -> u128 {
        self.memory().leaves.get(slot)
    }

    /// What should be done next, the most urgent first; `None` when there is nothing.
    pub fn next_job(&self) -> Option<Job> {
        self.next_sync().or_else(|| self.next_flush()).or_else(|| self.next_compaction())
    }

    /// [`Job::SyncLog`] when something was taken that is not durable yet.
    pub fn next_sync(&self) -> Option<Job> {
        (self.durable() < self.appended()).then_some(Job::SyncLog)
    }

    /// Does a job, in the calling thread. Jobs of different kinds may run at once; of one kind, one waits for the other.
    /// A job that is no longer due does nothing.
    /// # Errors
    /// [`JobError`]. After [`JobError::Failed`] the store takes no more writes.
    pub fn run(&self, job: Job) -> Result<(), JobError> {
        match job {
            Job::SyncLog => Ok(self.sync(self.appended()).map(drop)?),
            Job::Flush => self.run_flush(),
            Job::Compact(plan) => self.run_compaction(&plan),
        }
    }

    /// Looks whether a full disk has room again; takes writes if so, and lets jobs try again that the disk failed. Call it
    /// every second or so.
    /// # Errors
    /// The system's; it changes nothing.
    pub fn check_space(&self) -> io::Result<()> {
        self.space.check()?;
        self.jobs_wait.store(false, Ordering::Release);
        self.pace.tick_merges();
        Ok(())
    }

    /// A clean stop: everything is synced, and the manifest says up to where, so that the next start can tell a log that
    /// lost its end from one that never had more.
    /// # Errors
    /// [`Failed`].
    pub fn close(&self) -> Result<(), Failed> {
        let synced = self.sync_all()?;
        let trimmed = lock(&self.log).trim();
        trimmed.map_err(|error| self.fail("cannot cut the commit log to its length", &error))?;
        let mut manifest = lock(&self.manifest);
        if manifest.state().synced == synced {
            return Ok(());
        }
        let edit = super::manifest::Edit { synced: Some(synced), ..Default::default() };
        self.append_edit(&mut manifest, &edit)
    }

    /// The options it was opened with.
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// Why the store takes no more writes, if so.
    /// # Errors
    /// [`Failed`].
    pub fn check_failure(&self) -> Result<(), Failed> {
        self.failure.get().map_or(Ok(()), |reason| Err(Failed { reason: reason.clone() }))
    }

    fn look_up(&self, key: &[u8], blocks: Blocks<'_>) -> Result<Cached, ReadError> {
        let levels = {
            let memory = self.memory();
            let frozen = memory.frozen.iter().rev().map(|frozen| &frozen.table);
            let held =
                std::iter::once(&memory.active).chain(frozen).find_map(|table| table.get(key));
            if let Some(held) = held {
                return Ok(Cached::Ready(Found { value: held.value, position: held.position }));
            }
            Arc::clone(&memory.levels)
        };
        let hash = KeyHash::new(key);
        for live in levels.candidates(key) {
            match live.opened()?.get(key, hash, blocks)? {
                Lookup::Entry(value) => {
                    return Ok(Cached::Ready(Found { value, position: LogPosition::ZERO }));
                }
                Lookup::NeedsDisk => return Ok(Cached::NeedsDisk),
                Lookup::Absent => match live.hole_at(key) {
                    None => {}
                    Some(hole) if hole.is_mended => break,
                    Some(hole) => return Err(hole.error(&self.directory)),
                },
            }
        }
        Ok(Cached::Ready(Found::default()))
    }

    /// Gives the cache what memtables, indexes and filters leave of the memory.
    fn balance_memory(&self, levels: &Levels) {
        let taken = self.options.memtables_bytes_max().saturating_add(levels.pinned_bytes());
        let left = self.options.memory_bytes.saturating_sub(taken);
        self.cache.limit(self.options.cache_bytes.min(left));
    }

    fn admit(&self, memory: &Memory, bytes: usize, privileged: bool) -> Result<(), WriteError> {
        let behind = self.options.frozen_max <= memory.frozen.len();
        if behind && self.options.memtable_bytes <= memory.active.bytes() && !privileged {
            return Err(WriteError::Overloaded { waiting: "memtables wait for their flush" });
        }
        let unwritten = memory.buffer.bytes();
        if unwritten > 0 && self.space.unwritten_bytes_max() < (unwritten + bytes) as u64 {
            return Err(WriteError::Overloaded { waiting: "log records wait for the disk" });
        }
        if self.space.admit(bytes as u64, privileged) { Ok(()) } else { Err(WriteError::Full) }
    }

    /// The store is done for: remembers why, once.
    fn fail(&self, what: &str, error: &io::Error) -> Failed {
        let reason = self.failure.get_or_init(|| format!("{what}: {error}"));
        Failed { reason: reason.clone() }
    }

    fn memory(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory_mut(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn apply(&mut self, change: Change<&[u8]>, position: LogPosition) {
        if let Change::XorLeaf(slot, bits) = change {
            self.leaves.xor(slot, bits);
        }
        self.active.apply(change, position);
    }

    fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    fn rotate(&mut self) {
        let segment = self.take_number();
        self.buffer.rotate(segment);
    }

    fn freeze(&mut self) {
        self.rotate();
        let table = std::mem::take(&mut self.active);
        self.frozen.push_back(Arc::new(Frozen { table, next: self.buffer.segment() }));
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SyncLog => f.write_str("sync the log"),
            Self::Flush => f.write_str("flush a memtable"),
            Self::Compact(plan) => {
                write!(f, "merge {} tables into level {}", plan.inputs.len(), plan.target)
            }
        }
    }
}
