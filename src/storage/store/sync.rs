//! Sync: from the buffer into the log, and from the system's cache onto the disk, for many writers at once.
//!
//! One caller at a time syncs, for all that was written until it began; the others wait for it, and whoever came too
//! late goes next with all of them (group commit). Groups grow by themselves while a sync runs. Where a write counts once
//! it was handed to the system, there is nothing to wait for but the call.

use std::sync::atomic::Ordering;

use super::{Failed, Store, lock};
use crate::planted::{self, Bug};
use crate::storage::log::LogPosition;
use crate::storage::log::writer::Writer;
use crate::storage::options::SyncMode;
use crate::storage::space::Writes;

impl Store {
    /// Makes what was written up to `upto`, at least, as durable as the mode promises. Blocks; one call at a time works,
    /// the others wait and mostly find their work done. The new [`Store::durable`].
    /// # Errors
    /// [`Failed`]: a write or sync of the log failed. It is never tried again; the store takes no more writes.
    pub fn sync(&self, upto: LogPosition) -> Result<LogPosition, Failed> {
        if self.options.sync != SyncMode::Always {
            self.check_failure()?;
            if upto <= self.durable() {
                return Ok(self.durable());
            }
            let (end, wanted) = {
                let mut log = lock(&self.log);
                if upto <= self.durable() {
                    return Ok(self.durable());
                }
                self.write_log(&mut log)?
            };
            if wanted <= self.synced() {
                return Ok(raise(&self.durable, end));
            }
        }
        self.sync_in_turn(upto, || upto <= self.durable())
    }

    /// Writes and `fdatasync`s all that was taken, in every mode.
    /// # Errors
    /// As [`Store::sync`].
    pub fn sync_all(&self) -> Result<LogPosition, Failed> {
        let appended = self.appended();
        self.sync_in_turn(appended, || appended <= self.synced())
    }

    /// Syncs all that was taken, or waits until another did what this caller wants.
    fn sync_in_turn(
        &self,
        wanted: LogPosition,
        is_done: impl Fn() -> bool,
    ) -> Result<LogPosition, Failed> {
        let look = || match self.check_failure() {
            Ok(()) => is_done().then(|| Ok(self.durable())),
            Err(failed) => Some(Err(failed)),
        };
        let reached = |result: &Result<LogPosition, Failed>| {
            result.as_ref().map_or(u64::MAX, |reached| reached.get())
        };
        self.turn.find_or_work(wanted.get(), look, || self.write_and_sync(), reached)
    }

    fn write_and_sync(&self) -> Result<LogPosition, Failed> {
        let (end, unsynced) = {
            let mut log = lock(&self.log);
            let (end, _) = self.write_log(&mut log)?;
            (end, log.take_unsynced())
        };
        let mut synced = unsynced.sync();
        if planted::is_on(Bug::FailedSyncRetried) && synced.is_err() {
            synced = unsynced.sync();
        }
        synced.map_err(|error| self.fail("cannot sync the commit log", &error))?;
        self.counters.fsyncs.fetch_add(1, Ordering::Relaxed);
        raise(&self.synced, end);
        Ok(raise(&self.durable, end))
    }

    /// Hands all that is buffered to the system. Its end, and up to where it must be synced before it counts.
    fn write_log(&self, log: &mut Writer) -> Result<(LogPosition, LogPosition), Failed> {
        // Another caller's failed write may have taken records with it that stand before what is buffered now.
        self.check_failure()?;
        let (pieces, end, wanted) = {
            let mut memory = self.memory_mut();
            let pieces = memory.buffer.take(log.take_spent());
            (pieces, memory.buffer.appended(), memory.fdatasync_wanted)
        };
        for piece in pieces {
            let written = self.space.with_reserve(Writes::Log, || log.write(&piece));
            written.map_err(|error| self.fail("cannot write the commit log", &error))?;
            log.retire(piece);
        }
        Ok((end, wanted))
    }
}

/// Raises a position that others may raise too; what it then is at least.
fn raise(position: &std::sync::atomic::AtomicU64, to: LogPosition) -> LogPosition {
    LogPosition::new(position.fetch_max(to.get(), Ordering::AcqRel).max(to.get()))
}
