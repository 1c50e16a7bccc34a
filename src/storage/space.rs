//! Disk space kept back, for what must go on when the disk is full.
//!
//! A preallocated file, `RESERVE`, holds it. When a write finds the disk full, the file is removed, the write is tried
//! again, and from then on only batches that may use the reserve are accepted, up to a part of it; flushes, compactions
//! and manifest edits go on. When enough space is free again, [`Space::check`] takes the reserve back and all is as
//! before. What was accepted can always be written: the log's buffer never holds more than half the reserve.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::directory::{Directory, RESERVE};
use super::vfs::{Vfs, VfsFile, is_full};

/// Share of the reserve that unwritten log records may take: one group is being written while the next gathers.
const UNWRITTEN_SHARE: u64 = 4;
/// Share of the reserve for batches that are accepted while the disk is full.
const ACCEPTED_SHARE: u64 = 4;
/// Space that must be free before a store without reserve takes writes again, in bytes.
const FREE_BYTES_MIN: u64 = 1 << 20;

/// The reserve, and whether the disk is full.
#[derive(Debug)]
pub(crate) struct Space {
    vfs: Arc<dyn Vfs>,
    root: PathBuf,
    path: PathBuf,
    reserve_bytes: u64,
    full: AtomicBool,
    /// Bytes accepted since the disk was full.
    accepted: AtomicU64,
    /// The file, while it holds the space.
    held: Mutex<Option<Arc<dyn VfsFile>>>,
}

impl Space {
    /// A reserve of this size; what an earlier run left of it is not touched yet.
    pub(crate) fn new(vfs: Arc<dyn Vfs>, directory: &Directory, reserve_bytes: u64) -> Self {
        let path = directory.root.join(RESERVE);
        let held = Mutex::new(vfs.open(&path).ok());
        let root = directory.root.clone();
        Self {
            vfs,
            root,
            path,
            reserve_bytes,
            full: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            held,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Most bytes of unwritten log records; they must find room on the reserve.
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

    /// Runs `operation`; when it finds the disk full, gives the reserve up and runs it once more.
    pub(crate) fn with_reserve<T>(
        &self,
        mut operation: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        match operation() {
            Err(error) if is_full(&error) => {
                self.full.store(true, Ordering::Release);
                if self.release()? { operation() } else { Err(error) }
            }
            other => other,
        }
    }

    /// Takes the reserve, at the start or when space has come back. Without room for it the disk counts as full.
    pub(crate) fn check(&self) -> io::Result<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let sufficient = match (&*held, self.is_full()) {
            (Some(file), false) if file.length()? >= self.reserve_bytes => return Ok(()),
            (_, false) => true,
            (_, true) => {
                let wanted = self.reserve_bytes.saturating_mul(2).max(FREE_BYTES_MIN);
                wanted <= self.vfs.free_space(&self.root)?
            }
        };
        if !sufficient {
            return Ok(());
        }
        let taken = self.take();
        match taken {
            Ok(file) => {
                *held = file;
                self.accepted.store(0, Ordering::Release);
                self.full.store(false, Ordering::Release);
                Ok(())
            }
            Err(error) if is_full(&error) => {
                self.full.store(true, Ordering::Release);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn take(&self) -> io::Result<Option<Arc<dyn VfsFile>>> {
        if self.reserve_bytes == 0 {
            return Ok(None);
        }
        let file = self.vfs.create(&self.path)?;
        match file.preallocate(self.reserve_bytes) {
            Ok(()) => Ok(Some(file)),
            Err(error) => {
                self.vfs.remove(&self.path)?;
                Err(error)
            }
        }
    }

    /// Frees the reserve; false when it is not held.
    fn release(&self) -> io::Result<bool> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        if held.is_none() {
            return Ok(false);
        }
        drop(held);
        self.vfs.remove(&self.path)?;
        self.vfs.sync_dir(&self.root)?;
        Ok(true)
    }
}
