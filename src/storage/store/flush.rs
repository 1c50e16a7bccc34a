//! Flush: a frozen memtable becomes a table of level 0.
//!
//! Order, each step done before the next: the log is synced to the memtable's end and goes on in the next segment; the
//! table is written, synced, named, its directory synced; one manifest edit adds it, moves the floor of the log and
//! takes over the leaves as of the freeze; the table is installed; segments below the floor are removed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Failed, Job, JobError, Store, lock};
use crate::planted::{self, Bug};
use crate::storage::directory::log_number;
use crate::storage::levels::Live;
use crate::storage::log::LogPosition;
use crate::storage::manifest::{Edit, TableMeta};
use crate::storage::memtable::{Frozen, Memtable};
use crate::storage::space::Writes;
use crate::storage::table::ReadError;
use crate::storage::table::builder::{Builder, TableOptions};
use crate::storage::vfs::is_full;

impl Store {
    /// Freezes the memtable, if there is anything in it, so that the next flush takes it.
    pub fn freeze(&self) {
        let mut memory = self.memory_mut();
        if !memory.active.is_empty() {
            memory.freeze();
            self.note_debt(&memory);
            drop(memory);
            self.ring();
        }
    }

    /// Freezes and flushes until nothing that was written so far is in a memtable.
    /// # Errors
    /// As [`Store::run`].
    pub fn flush(&self) -> Result<(), JobError> {
        self.freeze();
        let upto = self.appended();
        let is_due = |frozen: &Arc<Frozen>| frozen.next.first_position <= upto;
        while self.memory().frozen.front().is_some_and(is_due) {
            self.run_flush()?;
        }
        self.check_failure().map_err(JobError::from)
    }

    /// [`Job::Flush`] when a frozen memtable waits.
    pub fn next_flush(&self) -> Option<Job> {
        let due = !self.memory().frozen.is_empty();
        (due && self.jobs_may_run()).then_some(Job::Flush)
    }

    pub(super) fn run_flush(&self) -> Result<(), JobError> {
        let _flushing = lock(&self.flushing);
        self.check_failure()?;
        let Some(frozen) = self.memory().frozen.front().map(Arc::clone) else { return Ok(()) };
        let synced = self.sync_all()?;
        let live = match frozen.table.entries() {
            0 => None,
            _ => Some(self.write_frozen(&frozen)?),
        };
        self.install_flush(&frozen, live, synced)?;
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        self.remove_old_segments()
            .map_err(|error| self.fail("cannot remove an old log segment", &error))?;
        Ok(())
    }

    /// Makes one edit, durably. The caller then installs the same change in memory.
    pub(super) fn append_edit(
        &self,
        manifest: &mut crate::storage::manifest::writer::ManifestWriter,
        edit: &Edit,
    ) -> Result<(), Failed> {
        // What another thread failed to write there is not to be written over.
        self.check_failure()?;
        let appended = self.space.with_reserve(Writes::Log, || manifest.append(edit));
        appended.map_err(|error| self.fail("cannot write the manifest", &error))
    }

    /// Opens a table that was just written.
    pub(super) fn open_written(&self, meta: TableMeta) -> Result<Live, Failed> {
        let opened = Live::open(&*self.vfs, &self.directory.table(meta.number), meta);
        let refused = |error: ReadError| {
            self.fail("cannot read a table just written", &io::Error::other(error))
        };
        let live = opened.map_err(refused)?;
        if let Err(error) = live.opened() {
            return Err(refused(error));
        }
        Ok(live)
    }

    /// Whether flushes and merges are worth a try.
    pub(super) fn jobs_may_run(&self) -> bool {
        self.failure.get().is_none() && !self.jobs_wait.load(Ordering::Acquire)
    }

    /// What a job says when it could not write a table. On a full disk jobs wait for [`Store::check_space`].
    pub(super) fn job_error(&self, error: &io::Error) -> JobError {
        if is_full(error) {
            self.jobs_wait.store(true, Ordering::Release);
            return JobError::Full;
        }
        self.fail("cannot write a table", error).into()
    }

    pub(super) fn sync_tables_dir(&self) -> Result<(), Failed> {
        if planted::is_on(Bug::DirectorySyncSkipped) {
            return Ok(());
        }
        let synced = self.vfs.sync_dir(&self.directory.tables);
        synced.map_err(|error| self.fail("cannot sync the directory of tables", &error))
    }

    fn write_frozen(&self, frozen: &Frozen) -> Result<Live, JobError> {
        let number = self.memory_mut().take_number();
        let newest = frozen.next.first_position;
        let written = self.space.with_reserve(Writes::Job, || {
            if !self.space.jobs_may_write() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let options = TableOptions::new(&self.options, 0, newest);
            let mut builder =
                Builder::create(Arc::clone(&self.vfs), &self.directory.tables, number, options)?;
            match fill(&mut builder, &frozen.table) {
                Ok(()) => builder.finish(),
                Err(error) => {
                    builder.abandon()?;
                    Err(error)
                }
            }
        });
        let written = written.map_err(|error| self.job_error(&error))?;
        self.sync_tables_dir()?;
        Ok(self.open_written(TableMeta::new(&written))?)
    }

    fn install_flush(
        &self,
        frozen: &Frozen,
        live: Option<Live>,
        synced: LogPosition,
    ) -> Result<(), Failed> {
        let mut manifest = lock(&self.manifest);
        let edit = Edit {
            added: live.iter().map(|live| live.meta.clone()).collect(),
            next_number: Some(self.memory().next_number),
            floor: Some((frozen.next.segment, frozen.next.first_position)),
            synced: Some(synced),
            leaves: frozen.table.leaves().clone(),
            ..Edit::default()
        };
        self.append_edit(&mut manifest, &edit)?;
        let mut memory = self.memory_mut();
        memory.levels = Arc::new(memory.levels.changed(&[], live));
        let flushed = memory.frozen.pop_front();
        memory.floor = frozen.next.first_position;
        self.note_debt(&memory);
        let levels = Arc::clone(&memory.levels);
        drop(memory);
        self.balance_memory(&levels);
        // Freeing a memtable takes a while: not while writers wait.
        drop(flushed);
        self.ring();
        Ok(())
    }

    fn remove_old_segments(&self) -> io::Result<()> {
        let floor = lock(&self.manifest).state().floor.segment;
        for name in self.vfs.list(&self.directory.log)? {
            if log_number(&name).is_some_and(|number| number < floor) {
                self.vfs.remove(&self.directory.log.join(name))?;
            }
        }
        Ok(())
    }
}

/// Puts all entries of a memtable into a table.
fn fill(builder: &mut Builder, table: &Memtable) -> io::Result<()> {
    table.iter().try_for_each(|(key, value)| builder.add(key, value))
}
