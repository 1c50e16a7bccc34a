//! Disk space kept back, for what must go on when the disk is full.
//!
//! Two preallocated files hold it: `RESERVE-LOG` for log records already accepted, for manifest edits, and for batches
//! that may use the reserve; `RESERVE-JOBS` for flushes and merges, which free space in the end. Who finds the disk full
//! gives its file up and tries again. From then on only batches that may use the reserve are accepted, up to a part of
//! it. When enough space is free again, [`Space::check`] takes both files back and all is as before.
//!
//! So what was accepted can always be written: unwritten records never exceed a part of the log's file, and once that one
//! is given up, jobs write no more ([`Space::jobs_may_write`]).

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::directory::{Directory, RESERVE_JOBS, RESERVE_LOG};
use super::vfs::{Vfs, VfsFile, is_full};

/// Each file holds one part in so many of the reserve.
const FILE_SHARE: u64 = 2;
/// Share of the reserve that buffered log records may take; as many may be in flight to the disk.
const UNWRITTEN_SHARE: u64 = 16;
/// Share of the reserve for batches that are accepted while the disk is full.
const ACCEPTED_SHARE: u64 = 4;
/// Share of the reserve that must be free beyond it before writes are taken again, so that it is not full at once.
const MARGIN_SHARE: u64 = 4;
/// The least that must be free beyond the reserve, in bytes.
const FREE_BYTES_MIN: u64 = 1 << 20;

// Buffered, in flight and accepted when full fit into the log's file.
const _: () =
    assert!(2 * ACCEPTED_SHARE + UNWRITTEN_SHARE <= UNWRITTEN_SHARE * ACCEPTED_SHARE / FILE_SHARE);

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    /// The log or the manifest: must not fail.
    Log,
    /// A flush or a merge: can be given up and tried again.
    Job,
}

/// The reserve, and whether the disk is full.
#[derive(Debug)]
pub(crate) struct Space {
    vfs: Arc<dyn Vfs>,
    root: PathBuf,
    reserve_bytes: u64,
    full: AtomicBool,
    /// The log's file is given up.
    log_is_short: AtomicBool,
    /// Bytes accepted since the disk was full.
    accepted: AtomicU64,
    held: Mutex<Held>,
}

/// The files, while they hold space.
#[derive(Debug)]
struct Held {
    log: Option<Arc<dyn VfsFile>>,
    jobs: Option<Arc<dyn VfsFile>>,
}

impl Space {
    /// A reserve of this size; what an earlier run left of it is not touched yet.
    pub(crate) fn new(vfs: Arc<dyn Vfs>, directory: &Directory, reserve_bytes: u64) -> Self {
        let root = directory.root.clone();
        let held = Held {
            log: vfs.open(&root.join(RESERVE_LOG)).ok(),
            jobs: vfs.open(&root.join(RESERVE_JOBS)).ok(),
        };
        Self {
            vfs,
            root,
            reserve_bytes,
            full: AtomicBool::new(false),
            log_is_short: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            held: Mutex::new(held),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Whether flushes and merges may take space: not once the log lives on its reserve.
    pub(crate) fn jobs_may_write(&self) -> bool {
        !self.log_is_short.load(Ordering::Acquire)
    }

    /// Most bytes of buffered log records; they must find room on the reserve.
    pub(crate) const fn unwritten_bytes_max(&self) -> u64 {
        if self.reserve_bytes == 0 { u64::MAX } else { self.reserve_bytes / UNWRITTEN_SHARE }
    }

    /// Whether a batch may be accepted.
    pub(crate) fn admit(&self, bytes: u64, may_use_reserve: bool) -> bool {
        if !self.is_full() {
            return true;
        }
        let bound = self.reserve_bytes / ACCEPTED_SHARE;
        may_use_reserve
            && self.accepted.fetch_add(bytes, Ordering::AcqRel).saturating_add(bytes) <= bound
    }

    /// Runs `operation`; when it finds the disk full, gives the writer's file up and runs it once more.
    pub(crate) fn with_reserve<T>(
        &self,
        writes: Writes,
        mut operation: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        match operation() {
            Err(error) if is_full(&error) => {
                if self.give_up(writes)? {
                    operation()
                } else {
                    Err(error)
                }
            }
            other => other,
        }
    }

    /// Notes that the disk is full, and frees the writer's file; false when it was free before.
    pub(crate) fn give_up(&self, writes: Writes) -> io::Result<bool> {
        let mut held = self.held();
        self.full.store(true, Ordering::Release);
        let (file, name) = match writes {
            Writes::Log => {
                self.log_is_short.store(true, Ordering::Release);
                (&mut held.log, RESERVE_LOG)
            }
            Writes::Job => (&mut held.jobs, RESERVE_JOBS),
        };
        if file.take().is_none() {
            return Ok(false);
        }
        self.vfs.remove(&self.root.join(name))?;
        self.vfs.sync_dir(&self.root)?;
        Ok(true)
    }

    /// Takes the reserve, at the start or when space has come back. Without room for it the disk counts as full.
    pub(crate) fn check(&self) -> io::Result<()> {
        let mut held = self.held();
        if self.is_full() {
            let margin = (self.reserve_bytes / MARGIN_SHARE).max(FREE_BYTES_MIN);
            let wanted = self.reserve_bytes.saturating_add(margin);
            if self.vfs.free_space(&self.root)? < wanted {
                return Ok(());
            }
        }
        let taken =
            self.take(&mut held.log, RESERVE_LOG)? && self.take(&mut held.jobs, RESERVE_JOBS)?;
        if taken {
            self.accepted.store(0, Ordering::Release);
        }
        self.log_is_short.store(held.log.is_none() && self.reserve_bytes > 0, Ordering::Release);
        self.full.store(!taken, Ordering::Release);
        Ok(())
    }

    /// Takes a file's space unless it is held; false when there is not enough.
    fn take(&self, held: &mut Option<Arc<dyn VfsFile>>, name: &str) -> io::Result<bool> {
        let bytes = self.reserve_bytes / FILE_SHARE;
        let sufficient = held.as_ref().map_or(Ok(0), |file| file.length())? >= bytes;
        if sufficient {
            return Ok(true);
        }
        let path = self.root.join(name);
        let taken = self.vfs.create(&path).and_then(|file| file.preallocate(bytes).map(|()| file));
        match taken {
            Ok(file) => {
                *held = Some(file);
                Ok(true)
            }
            Err(error) if is_full(&error) => {
                *held = None;
                if self.vfs.exists(&path)? {
                    self.vfs.remove(&path)?;
                }
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
